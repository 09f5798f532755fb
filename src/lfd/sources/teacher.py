"""Experts that label the states which a learner visits, and take over some of its steps."""

from typing import Any, final

import numpy as np

from lfd.envs.spaces import Array
from lfd.envs.vec_env import VecEnv
from lfd.episodes import RunningPolicy, clip_action
from lfd.errors import UserError
from lfd.experts.experts import Expert
from lfd.rng import Rng
from lfd.sources import SourceContext


def take_expert_actions(action: Array, labels: Array, prob: float, rng: Rng) -> Array:
    """Returns actions [N, ...]: the expert's, `labels`, with probability `prob` in each environment, else `action`."""
    by_expert = rng.uniform(len(action)).cpu().numpy() < prob
    return np.where(by_expert.reshape(-1, *[1] * (action.ndim - 1)), labels, action)


@final
class Teacher:
    """Asks an expert for its action in every state of environments that reset themselves."""

    def __init__(self, name: str, context: SourceContext, env: VecEnv) -> None:
        self._expert: Expert = context.products[name]
        self._context, self._env = context, env
        self._policy: RunningPolicy | None = None
        if self._expert.is_person:
            raise UserError(
                f"algo.sources.{context.name}.expert: expected an expert that labels {env.num_envs} environments at "
                f"every step, got the person {name!r}; choose a trained expert or a script, or an interactive source"
            )

    def begin(self) -> None:
        """All environments were reset."""
        self._policy = self._expert.running_policy(self._env, self._context.device)

    def restart(self, first: Array) -> None:
        """The environments where `first` [N] is True were reset."""
        if first.any():
            assert self._policy is not None
            self._policy.restart(first)

    def labels(self, obs: Any) -> Array:
        """Returns the expert's actions [N, ...] at observations [N, ...], within the bounds."""
        assert self._policy is not None
        return clip_action(self._env.spaces, self._policy(obs))
