"""The jobs of a sweep in one table, grouped over seeds; a seed's value is the mean of its evaluation episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any, final

from lfd.files import to_strict_json
from lfd.report.table import align_columns, format_interval, format_mean_std, format_number, format_percent

RunResult = Mapping[str, Any]


@final
@dataclass
class Group:
    """The jobs that differ in `seed` only.

    `measure` says what `returns` are: "return_mean", or "fqe_mean" without an environment. `return_sd` is the sample
    standard deviation over seeds (n - 1), None with fewer than two. `others` holds the mean returns of the further
    policies, discounted if `measure` is "fqe_mean".
    """

    overrides: dict[str, str]
    policy: str | None = None
    measure: str = "return_mean"
    seeds: list[str] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    return_mean: float | None = None
    return_sd: float | None = None
    normalized: float | None = None
    success_rate: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    missing: int = 0

    @property
    def env(self) -> str:
        """The environment, within which returns are compared; "" if the sweep has only one."""
        return " ".join(self.overrides[key] for key in ("env", "env.id") if key in self.overrides)


@final
@dataclass
class Failure:
    """A job without a score, and the reason."""

    overrides: list[str]
    status: str
    reason: str


@final
@dataclass
class SweepSummary:
    """All jobs: their common overrides, the keys that vary (without `seed`), the groups and the failures."""

    common: dict[str, str]
    varies: list[str]
    groups: list[Group]
    failures: list[Failure]

    def own_overrides(self, failure: Failure) -> str:
        """The overrides of a failed job that vary within the sweep; all of its overrides if none varies."""
        own = [item for item in failure.overrides if _split_override(item)[0] in (*self.varies, "seed")]
        return " ".join(own or failure.overrides)


def summarize_sweep(results: Sequence[RunResult]) -> SweepSummary:
    """Groups jobs by the overrides that vary, without the seed; groups of one environment stand together.

    `results` are the result.json contents of the jobs, with `overrides` (list of "key=value"); a job that is not done
    has `status` and `reason`.
    """
    jobs = [dict(_split_override(override) for override in result["overrides"]) for result in results]
    keys = list(dict.fromkeys(key for job in jobs for key in job if key != "seed"))
    varies = [key for key in keys if len({job.get(key) for job in jobs}) > 1]
    jobs_by_values: dict[tuple[str | None, ...], list[tuple[dict[str, str], RunResult]]] = {}
    for job, result in zip(jobs, results, strict=True):
        jobs_by_values.setdefault(tuple(job.get(key) for key in varies), []).append((job, result))
    failures = [
        Failure(list(result["overrides"]), result["status"], result.get("reason", ""))
        for result in results
        if result["status"] != "done"
    ]
    common = {key: jobs[0][key] for key in keys if key not in varies}
    groups = [_group(varies, members) for members in jobs_by_values.values()]
    envs = list(dict.fromkeys(group.env for group in groups))
    return SweepSummary(common, varies, sorted(groups, key=lambda group: envs.index(group.env)), failures)


def _split_override(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def _group(varies: Sequence[str], members: Sequence[tuple[dict[str, str], RunResult]]) -> Group:
    job = members[0][0]
    group = Group({key: job[key] for key in varies if key in job})
    done = [
        (job.get("seed", ""), result) for job, result in members if result["status"] == "done" and result.get("scores")
    ]
    group.missing = sum(result["status"] != "done" for _, result in members)
    if not done:
        return group
    group.policy = next(iter(done[0][1]["scores"]))
    first = [result["scores"][group.policy] for _, result in done]
    group.seeds = [seed for seed, _ in done]
    group.runs = [result["run"] for _, result in done]
    group.measure = "return_mean" if "return_mean" in first[0] else "fqe_mean"
    group.returns = [score[group.measure] for score in first]
    group.return_mean = mean(group.returns)
    group.return_sd = stdev(group.returns) if len(group.returns) > 1 else None
    group.normalized = _mean(score.get("normalized") for score in first)
    group.success_rate = _mean(score.get("success_rate") for score in first)
    for policy in dict.fromkeys(name for _, result in done for name in result["scores"] if name != group.policy):
        value = _mean(result["scores"].get(policy, {}).get(_COMPARABLE_MEASURES[group.measure]) for _, result in done)
        if value is not None:
            group.others[policy] = value
    return group


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


_MEASURE_HEADINGS = {"return_mean": "return", "fqe_mean": "FQE value"}
_COMPARABLE_MEASURES = {"return_mean": "return_mean", "fqe_mean": "discounted_mean"}  # measures of other policies


def group_rows(sweep: SweepSummary) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, one row per group; an empty column is left out."""
    groups = sweep.groups
    others = list(dict.fromkeys(policy for group in groups for policy in group.others))
    columns: list[tuple[str, list[str]]] = [
        (key, [group.overrides.get(key, "–") for group in groups]) for key in sweep.varies
    ]
    measures = dict.fromkeys(_MEASURE_HEADINGS[group.measure] for group in groups)
    columns.append((" or ".join(measures), [format_mean_std(group.return_mean, group.return_sd) for group in groups]))
    columns.append(
        ("min .. max", [format_interval(min(g.returns, default=None), max(g.returns, default=None)) for g in groups])
    )
    columns.append(("seeds", [str(len(group.returns)) for group in groups]))
    if any(group.missing for group in groups):
        columns.append(("missing", [str(group.missing) for group in groups]))
    if any(group.normalized is not None for group in groups):
        columns.append(("normalized", [format_percent(group.normalized) for group in groups]))
    if any(group.success_rate is not None for group in groups):
        columns.append(("success", [format_percent(group.success_rate) for group in groups]))
    columns += [(policy, [format_number(group.others.get(policy)) for group in groups]) for policy in others]
    return [heading for heading, _ in columns], [
        list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)
    ]


CAPTION = "mean ± standard deviation over seeds; each seed counts once, with the mean of its episodes"


def sweep_table(results: Sequence[RunResult]) -> str:
    """The console table of a sweep, with the failures and their reasons below it."""
    sweep = summarize_sweep(results)
    lines = [align_columns(*group_rows(sweep), left=len(sweep.varies)), "", CAPTION]
    lines += [f"{each.status}: {sweep.own_overrides(each)}: {' '.join(each.reason.split())}" for each in sweep.failures]
    return "\n".join(lines)


def sweep_json(results: Sequence[RunResult]) -> str:
    """The content of sweep.json: the fields of `SweepSummary`."""
    return to_strict_json(asdict(summarize_sweep(results)))
