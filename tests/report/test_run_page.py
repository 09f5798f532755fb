"""report.html shows the whole run and loads nothing."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfd.report import report_html, save_film

RESULT: dict[str, Any] = {
    "status": "done",
    "overrides": ["algo=cql", "note=a <b>"],
    "scores": {
        "learn": {"return_mean": 498.3, "return_std": 9.1, "return_min": 431.0, "return_max": 500.0, "episodes": 30},
        "expert": {"return_mean": 500.0, "return_std": 0.0, "episodes": 30},
    },
    "stages": {
        "demos": {
            "artifact": "collect-77aa", "cached": True, "seconds": 4.0, "gradient_steps": 0, "env_steps": 20000,
            "metadata": {"transitions": 20000, "returns": {"mean": 486.2, "max": 500}, "env": {"id": "CartPole-v1"}},
        },
        "learn": {"artifact": "fit-3fa9", "cached": False, "seconds": 95.0, "gradient_steps": 5000, "env_steps": 0},
    },
}  # fmt: skip
RECORDS = [
    {"stage": "learn", "step": 1, "seconds": 0.1, "learn/dqn/critic_loss": 0.75},
    {"stage": "learn", "step": 2, "seconds": 0.2, "learn/dqn/critic_loss": 0.25},
]
PNG = b"\x89PNG picture"


class Page(HTMLParser):
    """The page's visible words, and every tag; raises where tags do not close in order."""

    VOID = {"meta", "img", "line", "circle", "!doctype"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.words.append(data.strip())


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cql-cartpole-s0-3fa9c1d2"
    folder.mkdir()
    git = {"commit": "0123abc", "diff": "+if x < y:", "untracked": []}
    (folder / "provenance.json").write_text(json.dumps({"git": git, "versions": {"torch": "2.13.0"}, "device": "cpu"}))
    return folder


def test_report_html_contains_the_whole_run(run_folder: Path) -> None:
    page = Page(report_html(run_folder, RESULT, "algo:\n  lr: 0.001", RECORDS, PNG))
    for words in (
        "cql-cartpole-s0-3fa9c1d2", "498.3 ± 9.1", "python run.py algo=cql 'note=a <b>'", "431.0 .. 500.0",
        "collect-77aa", "stored already", "built", "1:35", "5,000", "20,000", "mean 486.2, max 500", "id CartPole-v1",
        "algo:\n  lr: 0.001", "0.25", "0123abc", "+if x < y:", "torch 2.13.0",
    ):  # fmt: skip
        assert words in page.words, words
    assert "0.75" not in page.words, "only the last value of a metric"


def test_report_html_loads_nothing(run_folder: Path) -> None:
    save_film([np.zeros((4, 4, 3), np.uint8)], run_folder / "film.gif", 10)
    text = report_html(run_folder, RESULT, "", RECORDS, PNG)
    links = Page(text).links
    assert [link.split(";")[0] for link in links] == ["data:image/png", "data:image/gif"]
    assert not re.search(r"https?://|url\(|@import", text)


def test_report_html_of_a_failed_run_without_scores_is_a_page(tmp_path: Path) -> None:
    page = Page(report_html(tmp_path, {"status": "failed"}, "", [], PNG))
    assert "This run has no scores." in page.words
