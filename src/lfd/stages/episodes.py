"""Playing whole episodes: what evaluation and collection share.

Episodes are played in waves, one episode in each environment, so that every episode has a start state of its own seed
and short episodes are not preferred to long ones, as they are when a fixed number of steps is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfd.agents import Agent
from lfd.batch import rows, tensors
from lfd.data import Episode
from lfd.envs import VecEnv
from lfd.errors import Interrupted
from lfd.noise import Noise

Array = NDArray[Any]
Policy = Callable[[Any], Array]  # observations [N, ...] -> actions [N, ...] in units of the space


@dataclass
class Played:
    """One episode as it went."""

    value: float  # its undiscounted true return
    length: int
    success: float | None  # as the environment says, or None
    episode: Episode | None  # its data, when asked for


def greedy(agent: Agent, number: int, device: torch.device, noise: Noise | None = None) -> Policy:
    """An agent as a policy of `number` environments; with noise a stochastic one is sampled."""
    state = agent.initial_state(number)

    def act(obs: Any) -> Array:
        nonlocal state
        action, state = agent.act(tensors(obs, device), state, noise)
        taken: Array = action.cpu().numpy()
        return taken

    return act


def play(
    env: VecEnv,
    policy: Callable[[], Policy],
    seeds: Sequence[int],
    keep: bool = False,
    stack: int = 1,
    stopping: Callable[[], bool] = lambda: False,
    watch: Callable[[VecEnv], None] | None = None,
) -> list[Played]:
    """Play one episode from each seed; `policy` makes a fresh policy for every wave. Raises Interrupted when stopping.

    With `keep` the data of the episodes is returned, single frames where observations stack. `watch` sees each state.
    """
    played: list[Played] = []
    for start in range(0, len(seeds), env.num_envs):
        some = seeds[start : start + env.num_envs]
        obs = env.reset([*some, *[some[-1]] * (env.num_envs - len(some))])
        lanes = [_Lane(rows(obs, index), keep, stack) for index in range(len(some))]
        _wave(env, policy(), obs, lanes, stopping, watch)
        played += [lane.played() for lane in lanes]
    return played


def _wave(
    env: VecEnv,
    policy: Policy,
    obs: Any,
    lanes: "list[_Lane]",
    stopping: Callable[[], bool],
    watch: Callable[[VecEnv], None] | None,
) -> None:
    while any(lane.running for lane in lanes):
        if stopping():
            raise Interrupted("stopped while episodes were played")
        if watch:
            watch(env)
        action = policy(obs)
        step = env.step(action)
        done = step.terminated | step.truncated
        success = step.infos.get("success")
        for index, lane in enumerate(lanes):
            if lane.running:
                lane.add(action[index], step.reward[index], rows(step.next_obs, index), bool(step.terminated[index]))
                if success is not None and not np.isnan(success[index]):
                    lane.success = float(success[index])
                lane.running = not done[index]
        obs = step.obs


class _Lane:
    """One running episode."""

    def __init__(self, obs: Any, keep: bool, stack: int) -> None:
        self._keep, self._stack = keep, stack
        self._observations = [self._newest(obs)] if keep else []
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._terminated = False
        self.success: float | None = None
        self.running = True

    def _newest(self, obs: Any) -> Any:
        # Copied: a view would keep the whole stack of every step in memory.
        return obs[-1].copy() if self._stack > 1 else obs

    def add(self, action: Any, reward: float, following: Any, terminated: bool) -> None:
        self._rewards.append(float(reward))
        self._terminated = terminated
        if self._keep:
            self._actions.append(action)
            self._observations.append(self._newest(following))

    def played(self) -> Played:
        value = float(np.sum(self._rewards))
        episode = self._episode() if self._keep else None
        return Played(value, len(self._rewards), self.success, episode)

    def _episode(self) -> Episode:
        first = self._observations[0]
        observations: Any
        if isinstance(first, dict):
            observations = {name: np.stack([seen[name] for seen in self._observations]) for name in first}
        else:
            observations = np.stack(self._observations)
        rewards = np.array(self._rewards, np.float32)
        return Episode(observations, np.stack(self._actions), rewards, self._terminated, not self._terminated)
