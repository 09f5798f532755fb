"""Progress lines: rates, time left, terminals and log files."""

import io
from collections.abc import Callable

import pytest

from lfd.log import Progress, progress
from lfd.log.progress import TimeEstimate, format_duration, format_short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def test_progress_in_a_log_file_prints_every_ten_seconds_and_at_the_end(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    shown = Progress([("expert", 0.0), ("learn", None)], stream)
    shown.report_stored("expert")
    shown.begin_stage("learn", 1000)
    for step in range(25):
        shown.update(step * 10, score=float(step))
        wait(1.0)
    shown.end_stage(25.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[1/2] expert  stored already"
    assert lines[1] == "[2/2] learn    10%  100/1k steps  10/s  1:30 left  score 10.0  run 0:10, 1:30 left"
    assert lines[2].startswith("[2/2] learn    20%  200/1k steps")
    assert lines[3] == "[2/2] learn   240 steps in 0:25  score 24.0"
    assert len(lines) == 4


def test_progress_after_a_checkpoint_rate_counts_this_process_only(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    shown = Progress([("learn", None)], stream)
    shown.begin_stage("learn", 1000)
    shown.update(500)
    wait(10.0)
    shown.update(600)
    assert "60%" in stream.getvalue() and "10/s" in stream.getvalue() and "0:40 left" in stream.getvalue()


def shown_after_ten_seconds(wait: Callable[[float], None], *ahead: float | None, total: int | None = 200) -> str:
    stream = io.StringIO()
    shown = Progress([("learn", 33.0), *((f"after{place}", seconds) for place, seconds in enumerate(ahead))], stream)
    shown.begin_stage("learn", total)
    shown.update(0)
    wait(10.0)
    shown.update(100)
    return stream.getvalue().rstrip()


def test_progress_run_time_left_includes_later_stages(wait: Callable[[float], None]) -> None:
    assert shown_after_ten_seconds(wait, 5.0, 0.0).endswith("  0:10 left  run 0:10, 0:15 left")


def test_progress_with_a_stage_of_unknown_time_shows_a_lower_bound(wait: Callable[[float], None]) -> None:
    assert shown_after_ten_seconds(wait, None, 5.0).endswith("  0:10 left  run 0:10, ≥ 0:15 left")


def test_progress_stage_without_total_uses_its_expected_time(wait: Callable[[float], None]) -> None:
    assert shown_after_ten_seconds(wait, 5.0, total=None).endswith("  10/s  0:23 left  run 0:10, 0:28 left")


def test_progress_with_all_times_unknown_shows_no_time_left(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    shown = Progress([("learn", None), ("score", None)], stream)
    shown.begin_stage("learn", None)
    wait(10.0)
    shown.update(100)
    assert stream.getvalue().endswith("run 0:10\n")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (120, "[2/4] learn    34%  3.4k/10k gradient steps  340/s  0:19 left  score 431.0  run 0:10, ≥ 0:21 left  ━"),
        (90, "[2/4] learn    34%  3.4k/10k  340/s  0:19 left  score 431.0  run 0:10, ≥ 0:21 left"),
        (80, "[2/4] learn    34%  3.4k/10k  0:19 left  score 431.0  run 0:10, ≥ 0:21 left"),
    ],
)
def test_progress_in_a_narrow_terminal_keeps_the_time_left(
    wait: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, columns: int, line: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    shown = Progress([("expert", 0.0), ("learn", None), ("other", None), ("score", 2.0)], stream)
    shown.begin_stage("learn", 10_000, "gradient steps")
    shown.update(0)
    wait(10.0)
    shown.update(3_400, score=431.0)
    assert stream.getvalue().rpartition("\r\x1b[K")[2].startswith(line)


def test_progress_at_a_terminal_rewrites_one_line(wait: Callable[[float], None]) -> None:
    stream = Terminal()
    shown = Progress([("demos", None)], stream)
    shown.begin_stage("demos", None, "transitions")
    for step in range(50):
        shown.update(step)
        wait(0.01)
    shown.end_stage(0.5)
    text = stream.getvalue()
    assert text.count("\r\x1b[K") == 6, "a redraw every tenth of a second, and the end in the line's place"
    assert text.endswith("\r\x1b[K[1/1] demos  49 transitions in 0:00\n") and text.count("\n") == 1


def test_progress_of_a_sweep_job_has_a_prefix_and_rewrites_nothing(wait: Callable[[float], None]) -> None:
    stream = Terminal()
    shown = Progress([("learn", None)], stream, job="algo=bc seed=1")
    shown.begin_stage("learn", 10)
    wait(11.0)
    shown.update(5)
    assert stream.getvalue().startswith("algo=bc seed=1: [1/1] learn ")
    assert "\r" not in stream.getvalue()


def test_progress_close_ends_the_line() -> None:
    stream = Terminal()
    shown = Progress([("learn", None)], stream)
    shown.begin_stage("learn", 10)
    shown.update(5)
    shown.close()
    shown.close()
    assert stream.getvalue().endswith("\n") and not stream.getvalue().endswith("\n\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(7, "0:07"), (59.6, "1:00"), (750, "12:30"), (11045, "3:04:05"), (183840, "2 d 03:04")]
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.519, "0.519"), (431, "431"), (999.9, "1k"), (12_400, "12.4k"), (1_234_567, "1.23M")],
)
def test_format_short(number: float, text: str) -> None:
    assert format_short(number) == text


def at_work(wait: Callable[[float], None], total: int = 100) -> tuple[Progress, io.StringIO]:
    """A stage that has done all of its steps, one in a second."""
    stream = io.StringIO()
    shown = Progress([("learn", None)], stream)
    shown.begin_stage("learn", total)
    shown.update(0)
    wait(float(total))
    shown.update(total)
    return shown, stream


def test_progress_activity_is_shown_and_hides_an_unknown_time_left(wait: Callable[[float], None]) -> None:
    shown, stream = at_work(wait)
    for done in (0, 0, 2):
        wait(30.0)
        shown.set_activity("checking", done, 10, "episodes")
    lines = stream.getvalue().splitlines()[1:]
    assert "100%  100/100 steps  checking 0/10 episodes  run 2:10" in lines[0] and "left" not in lines[0] + lines[1]
    # Two of ten episodes took a minute.
    assert lines[2].endswith("100%  100/100 steps  checking 2/10 episodes  4:00 left  run 3:10, 4:00 left")


def test_progress_after_an_activity_shows_steps_again(wait: Callable[[float], None]) -> None:
    shown, stream = at_work(wait)
    shown.set_activity("collecting")
    shown.set_activity("")
    wait(10.0)
    shown.update(100)
    assert "collecting" not in stream.getvalue().splitlines()[-1]


def test_progress_time_left_is_a_range_of_recent_and_overall_rates(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    shown = Progress([("learn", None)], stream)
    shown.begin_stage("learn", 1_000)
    shown.update(0)
    for second in range(200):
        wait(1.0)
        shown.update(second * 4 if second < 100 else 400 + (second - 100))
    # 500 steps are left: 2.5 a second on the whole, one a second in the last minute.
    low, high = stream.getvalue().splitlines()[-1].split("/s  ")[1].split(" left")[0].split(" .. ")
    assert low.startswith("3:") and high.startswith("8:")


def test_span_of_similar_estimates_is_shown_as_one() -> None:
    assert str(TimeEstimate(100, 110)) == "1:50" and str(TimeEstimate(60, 120)) == "1:00 .. 2:00"
    assert str(TimeEstimate.sum([TimeEstimate(1, 2), TimeEstimate(3, 4)]) * 60) == "4:00 .. 6:00"
