"""Writes docs/metrics.md: the metrics of every loss, from the classes that the losses return."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

from lfd.algos import Loss
from lfd.registry import parts

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
HEAD = """# Metrics of losses

Made by `python scripts/metrics.py`. In `metrics.jsonl` a metric is `<stage>/<row>/<metric>`, its mean over 100 gradient
steps, and of held-out data `<stage>/validation/<row>/<metric>`; the row is the key in `algo.losses`. Metrics that
end in `_loss` are drawn in `curves.png`.

| loss | metric | meaning |
|---|---|---|
"""


def metrics_of(loss: type[Loss]) -> dict[str, str]:
    """The meaning of each metric of a loss, by name."""
    (kind,) = get_args(get_type_hints(loss.__call__)["return"])
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    return {name: " ".join(getattr(hint, "__metadata__", ())) for name, hint in hints.items()}


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{option}` | `{name}` | {meaning.replace('|', chr(92) + '|')} |"
        for option, loss in sorted(parts("loss").items())
        for name, meaning in metrics_of(loss).items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
