"""Playing whole episodes: what evaluation, collection and interactive learning share.

Episodes are played in waves, one episode in each environment, so that every episode has a start state of its own seed
and short episodes are not preferred to long ones, as they are when a fixed number of steps is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lfd.agents import Agent
from lfd.batch import rows, tensors
from lfd.data import Episode
from lfd.envs import Spaces, VecEnv
from lfd.envs.vector import Step
from lfd.errors import Interrupted
from lfd.noise import Noise

Array = NDArray[Any]
Policy = Callable[[Any], Array]  # observations [N, ...] -> actions [N, ...] in units of the space


@dataclass
class Played:
    """One episode as it went."""

    value: float  # its undiscounted true return
    length: int
    success: float | None  # at its end: what the environment told last, 0 to 1, or None if it told nothing
    episode: Episode | None  # its data, when asked for
    succeeded: float | None = None  # at any time: the most that the environment told


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
    enough: Callable[["list[Lane]"], bool] = lambda lanes: False,
    ended: Callable[[int], None] = lambda episodes: None,
) -> list[Played]:
    """Play one episode from each seed; `policy` makes a fresh policy for every wave. Raises Interrupted when stopping.

    With `keep` the data of the episodes is returned, single frames where observations stack. `watch` sees each state.
    A wave ends early, its running episodes cut, once its lanes hold `enough`. `ended` is told after every step how many
    episodes are over.
    """
    played: list[Played] = []
    for start in range(0, len(seeds), env.num_envs):
        some = seeds[start : start + env.num_envs]
        obs = env.reset([*some, *[some[-1]] * (env.num_envs - len(some))])
        lanes = [Lane(rows(obs, index), keep, stack) for index in range(len(some))]
        _wave(env, policy(), obs, lanes, stopping, watch, enough, partial(_added, ended, len(played)))
        played += [lane.played() for lane in lanes]
    return played


def _added(ended: Callable[[int], None], before: int, over: int) -> None:
    ended(before + over)


def _wave(
    env: VecEnv,
    policy: Policy,
    obs: Any,
    lanes: "list[Lane]",
    stopping: Callable[[], bool],
    watch: Callable[[VecEnv], None] | None,
    enough: Callable[["list[Lane]"], bool],
    ended: Callable[[int], None],
) -> None:
    while any(lane.running for lane in lanes) and not enough(lanes):
        if stopping():
            raise Interrupted("stopped while episodes were played")
        if watch:
            watch(env)
        action = policy(obs)
        step = env.step(action)
        for index, lane in enumerate(lanes):
            lane.follow(index, action[index], step)
        ended(sum(not lane.running for lane in lanes))
        obs = step.obs


class Lane:
    """One running episode."""

    def __init__(self, obs: Any, keep: bool, stack: int) -> None:
        self._keep, self._stack = keep, stack
        self._observations = [self._newest(obs)] if keep else []
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._terminated = False
        self.success: float | None = None
        self.succeeded: float | None = None
        self.running = True

    def _newest(self, obs: Any) -> Any:
        # Copied: a view would keep the whole stack of every step in memory.
        return obs[-1].copy() if self._stack > 1 else obs

    def follow(self, index: int, action: Any, step: Step) -> None:
        """Take in what environment `index` did, if the episode runs still; `action` is what is kept as done."""
        if not self.running:
            return
        self._rewards.append(float(step.reward[index]))
        self._terminated = bool(step.terminated[index])
        self.running = not (self._terminated or step.truncated[index])
        if self._keep:
            self._actions.append(action)
            self._observations.append(self._newest(rows(step.next_obs, index)))
        success = step.infos.get("success")
        if success is not None and not np.isnan(success[index]):
            self.success = float(success[index])
            self.succeeded = max(self.success, self.succeeded or 0.0)

    @property
    def length(self) -> int:
        return len(self._rewards)

    def played(self) -> Played:
        value = float(np.sum(self._rewards))
        episode = self._episode() if self._keep else None
        return Played(value, len(self._rewards), self.success, episode, self.succeeded)

    def _episode(self) -> Episode:
        first = self._observations[0]
        observations: Any
        if isinstance(first, dict):
            observations = {name: np.stack([seen[name] for seen in self._observations]) for name in first}
        else:
            observations = np.stack(self._observations)
        rewards, over = np.array(self._rewards, np.float32), not self.running
        return Episode(observations, np.stack(self._actions), rewards, self._terminated, over and not self._terminated)


def covered(lanes: Sequence[Lane], transitions: float) -> bool:
    """Do the lanes, taken in their order, give the first so many transitions, however the running ones go on?"""
    held = 0
    for lane in lanes:
        held += lane.length
        if held >= transitions or lane.running:
            break
    return held >= transitions


def success_rates(played: Sequence[Played]) -> dict[str, float | None]:
    """Shares of the episodes that were a success at their end, and at any time; None where nothing was told."""
    ends = [one.success for one in played if one.success is not None]
    times = [one.succeeded for one in played if one.succeeded is not None]
    return {
        "success_rate": float(np.mean(ends)) if ends else None,
        "success_once_rate": float(np.mean(times)) if times else None,
    }


def inside(spaces: Spaces, action: Array) -> Array:
    """What the environment will do: continuous actions clipped to their bounds, so that the data says the truth."""
    if spaces.actions == "discrete":
        return action
    space: Any = spaces.action
    clipped: Array = np.clip(action, space.low, space.high).astype(np.float32)
    return clipped
