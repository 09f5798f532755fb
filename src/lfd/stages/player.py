"""Plays batches of episodes of policies with noise."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch

from lfd.envs import Spaces
from lfd.episodes import EpisodeProgress, EpisodeRecorder, PlayedEpisode, PolicyFunction, clip_action, play
from lfd.experts.experts import Expert, Scripted, make_eval_envs
from lfd.rng import GeneratorRng, Rng, derive, reset_seeds
from lfd.stages import StageContext
from lfd.stages.policies import split_name


class CutEpisode(NamedTuple):
    """An episode up to a step."""

    length: int  # steps so far
    running: bool


@final
class Player:
    """Plays batches of episodes, one in each environment; the number of a batch determines its random numbers."""

    def __init__(
        self,
        context: StageContext,
        num_envs: int,
        seed: int,
        stochastic: bool,
        action_noise: float,
        is_enough: Callable[[Sequence[EpisodeProgress], int], bool],
    ) -> None:
        """Makes `num_envs` environments; `is_enough(episodes, missing)` ends a batch whose data suffices."""
        assert context.env is not None
        self._context, self._stack, self._is_enough = context, context.env.stack, is_enough
        self._seed, self._stochastic, self._action_noise = seed, stochastic, action_noise
        self.env = make_eval_envs(context.env, list(context.products.values()), num_envs)

    def is_script(self, name: str) -> bool:
        """True if the policy of this name is a script."""
        return isinstance(self._context.products.get(split_name(name)[0]), Scripted)

    def play(
        self,
        name: str,
        level: float,
        batch: int,
        missing: int,
        stopping: Callable[[], bool],
        ended: Callable[[int], None] = lambda finished: None,
    ) -> list[PlayedEpisode]:
        """Plays the batch `batch` of the policy `name` with epsilon `level`, until `missing` data are there."""
        number, context = self.env.num_envs, self._context
        # a script computes nothing on the device, which a forked process could not use
        device = torch.device("cpu") if self.is_script(name) else context.hardware.torch_device()
        rng = GeneratorRng(derive(self._seed, "noise", batch), device)

        def policy() -> PolicyFunction:
            act = self._policy(name, rng, device)
            return noisy_policy(act, context.spaces, number, rng, level, self._action_noise)

        def enough(recorders: list[EpisodeRecorder]) -> bool:
            return self._is_enough(recorders, missing)

        seeds = reset_seeds(number, self._seed, "episode", batch)
        return play(self.env, policy, seeds, True, self._stack, stopping, enough=enough, ended=ended)

    def _policy(self, name: str, rng: Rng, device: torch.device) -> PolicyFunction | None:
        base, snapshot = split_name(name)
        if base == "random":
            return None
        expert: Expert = self._context.products[base]
        return expert.policy(self.env, device, snapshot, rng if self._stochastic else None)


def noisy_policy(
    act: PolicyFunction | None, spaces: Spaces, count: int, rng: GeneratorRng, epsilon: float, action_noise: float
) -> PolicyFunction:
    """The policy `act` with noise, for `count` environments; the uniform random policy if `act` is None.

    An action is uniform with probability `epsilon`. Continuous actions get Gaussian noise with a standard deviation of
    `action_noise` half ranges of the action space.
    """
    random = random_policy(spaces, count, rng)
    if act is None:
        return random
    space: Any = spaces.action

    def noisy(obs: Any) -> Any:
        action = act(obs)
        if action_noise and spaces.actions == "continuous":
            scale = ((space.high - space.low) / 2).astype(np.float32)
            action = action + action_noise * (scale * rng.normal(*action.shape).cpu().numpy())
        if epsilon:
            explores = rng.uniform(count).cpu().numpy() < epsilon
            action = np.where(explores.reshape(-1, *[1] * (action.ndim - 1)), random(obs), action)
        return clip_action(spaces, action)

    return noisy


def random_policy(spaces: Spaces, count: int, rng: GeneratorRng) -> PolicyFunction:
    """Uniform actions for `count` environments; drawn with `rng`, whatever the observations."""
    space: Any = spaces.action

    def act(obs: Any) -> Any:
        if spaces.actions == "discrete":
            return (rng.uniform(count) * int(space.n)).long().cpu().numpy()
        uniform = rng.uniform(count, *space.shape).cpu().numpy()
        return (space.low + uniform * (space.high - space.low)).astype(np.float32)

    return act
