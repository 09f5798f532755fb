"""Means of metrics over the gradient steps between two records."""

from torch import Tensor


class RunningMeans:
    """Running means of metrics, on the device until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Adds the metrics of one gradient step, [] or [members]."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means since the last call, over members too."""
        means = {name: float(total.mean()) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def save(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The state for a checkpoint: sums, [] or [members], and numbers of steps, by metric."""
        return dict(self._sums), dict(self._counts)

    def restore(self, sums: dict[str, Tensor], counts: dict[str, int]) -> None:
        """Continues from sums, [] or [members], and counts of `save`."""
        self._sums, self._counts = dict(sums), dict(counts)
