"""The steps of one on-policy collection and the estimates from them."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree

from lfd.batch import Batch
from lfd.errors import UserError
from lfd.maths import gae
from lfd.sources import SourceContext

ESTIMATES = frozenset({"value", "advantage", "value_target"})  # by the agent's state value
ON_POLICY = ESTIMATES | {"log_prob"}


@final
class RolloutBuffer:
    """Steps of N environments as columns [T, N, ...], with log probabilities of the actions if a loss reads them.

    `states` are the recurrent states [N, ...] in which each sequence of steps begins.
    """

    def __init__(self, context: SourceContext, steps: Sequence[dict[str, Any]], states: Sequence[Any]) -> None:
        self._context = context
        self.columns = {name: _stack([step[name] for step in steps], context.device) for name in steps[0]}
        self.columns["discount"] = context.gamma * (~self.columns["terminated"]).float()
        self._states = _pytree.tree_map(lambda *parts: torch.stack(parts), *states)  # [T / L, N, ...]
        if "log_prob" in context.columns:
            rows = self._rows()
            self.columns["log_prob"] = self._grid(self._context.agent.policy(rows.obs).log_prob(rows.action))

    def transitions(self) -> Batch:
        """Returns the columns that a reward model may read, [T * N, ...]."""
        transitions = Batch(**{name: self.columns[name] for name in ("obs", "action", "next_obs", "discount")})
        return transitions.map(lambda column: column.flatten(0, 1))

    def batch(self, reward: Tensor, gae_lambda: float) -> Batch:
        """Returns all rows, or sequences of them, with rewards [T, N] and estimates of the present networks."""
        columns = self.columns | {"reward": reward}
        if self._context.columns & ESTIMATES:
            rows, gamma = self._rows(), self._context.gamma
            value, next_value = (self._grid(self._context.agent.value(obs)) for obs in (rows.obs, rows.next_obs))
            terminated = columns["terminated"]
            advantage = gae(reward, value, next_value, terminated, terminated | columns["truncated"], gamma, gae_lambda)
            columns |= {"value": value, "advantage": advantage, "value_target": advantage + value}
        return self._arrange(columns)

    def _rows(self) -> Batch:
        """Preprocessed inputs of networks [T * N, ...]; [N * T, ...], in order, for a recurrent agent."""
        agent = self._context.agent
        steps = Batch(**{name: self.columns[name] for name in ("obs", "next_obs", "action", "first")})
        if not agent.recurrent:
            return agent.preprocess(steps.map(lambda column: column.flatten(0, 1)))
        sequences = agent.preprocess(steps.map(lambda column: column.transpose(0, 1)))
        return agent.unroll(sequences.having(state=_pytree.tree_map(lambda states: states[0], self._states)))

    def _grid(self, values: Tensor) -> Tensor:
        """Values [T, N] of one number for each of the `_rows`."""
        steps, count = self.columns["valid"].shape
        return values.reshape(count, steps).T if self._context.agent.recurrent else values.reshape(steps, count)

    def _arrange(self, columns: dict[str, Any]) -> Batch:
        valid, first, length = columns.pop("valid"), columns.pop("first"), self._context.sequence
        if length == 1:
            keep = valid.flatten().nonzero().squeeze(-1)
            return Batch(**columns).map(lambda column: column.flatten(0, 1)[keep])
        if not valid.all():
            raise UserError(
                "algo.sequence_length: expected 1 for environments that spend a step on a reset, got "
                f"{length}; set it to 1"
            )
        # [T, N, ...] -> [N * T / L, L, ...]
        sequences = Batch(**columns, first=first).map(
            lambda column: column.transpose(0, 1).reshape(-1, length, *column.shape[2:])
        )
        state = _pytree.tree_map(lambda states: states.transpose(0, 1).flatten(0, 1), self._states)
        return sequences.having(state=state)


def _stack(parts: list[Any], device: torch.device) -> Any:
    """[N, ...] of each step -> tensors [T, N, ...]."""
    if isinstance(parts[0], dict):
        return {name: _stack([part[name] for part in parts], device) for name in parts[0]}
    return torch.from_numpy(np.stack(parts)).to(device)
