"""Plays whole episodes, for evaluation, collection and DAgger.

A batch of episodes has one episode in each environment, each with its own reset seed. Whole batches are played, as a
fixed number of steps would favor short episodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch

from lfd.agents import Agent
from lfd.batch import rows, tensors
from lfd.data import Episode
from lfd.envs import Spaces, VecEnv
from lfd.envs.minigrid import kind_of_mission
from lfd.envs.spaces import Array, mission_of
from lfd.envs.vec_env import Step
from lfd.errors import Interrupted
from lfd.rng import Rng

PolicyFunction = Callable[[Any], Array]  # observations [N, ...] -> actions [N, ...] in units of the space


class LabelingPolicy(ABC):
    """A policy whose episodes are stored with labels in place of its actions."""

    labels: Array  # [N, ...] actions to store in place of the last actions

    @abstractmethod
    def __call__(self, obs: Any) -> Array:
        """Returns the actions [N, ...] to take at observations [N, ...]."""


class RunningPolicy(ABC):
    """A policy for N environments that reset themselves."""

    @abstractmethod
    def __call__(self, obs: Any) -> Array:
        """Returns actions [N, ...] at observations [N, ...]."""

    @abstractmethod
    def restart(self, first: Array) -> None:
        """Begins an episode in the environments where `first` [N] is True; they were just reset."""


@dataclass
class PlayedEpisode:
    """Result of one episode."""

    episode_return: float  # undiscounted sum of the true rewards
    length: int  # steps
    success: float | None  # last success that the environment reported, 0 to 1; None if it reported none
    episode: Episode | None  # data of the episode, if requested
    succeeded: float | None = None  # largest success that the environment reported
    mission: str | None = None  # the task in words; None if observations have none


@final
class AgentPolicy(RunningPolicy):
    """The policy of `agent_policy`, with the agent's recurrent state."""

    def __init__(self, agent: Agent, number: int, device: torch.device, rng: Rng | None = None) -> None:
        self._agent, self._device, self._rng = agent, device, rng
        self._state = agent.initial_state(number)

    def __call__(self, obs: Any) -> Array:
        action, self._state = self._agent.act(tensors(obs, self._device), self._state, self._rng)
        actions: Array = action.cpu().numpy()
        return actions

    def restart(self, first: Array) -> None:
        self._state = self._agent.restart(self._state, torch.from_numpy(first).to(self._device))


def agent_policy(agent: Agent, number: int, device: torch.device, rng: Rng | None = None) -> AgentPolicy:
    """Returns the agent's policy for `number` environments: greedy, or sampled if `rng` is given."""
    return AgentPolicy(agent, number, device, rng)


def play(
    env: VecEnv,
    policy: Callable[[], PolicyFunction],
    seeds: Sequence[int],
    keep: bool = False,
    stack: int = 1,
    stopping: Callable[[], bool] = lambda: False,
    watch: Callable[[VecEnv], None] | None = None,
    enough: Callable[["list[EpisodeRecorder]"], bool] = lambda recorders: False,
    ended: Callable[[int], None] = lambda episodes: None,
) -> list[PlayedEpisode]:
    """Plays one episode for each seed.

    Args:
        env: environments, which play a batch of episodes at a time.
        policy: makes a new policy for each batch of episodes.
        seeds: reset seeds.
        keep: return the data of the episodes too; single frames if observations are stacks of frames.
        stack: number of stacked frames in an observation.
        stopping: True once the run was asked to stop.
        watch: called with the environments before every step.
        enough: True for the recorders of a batch whose data suffices; running episodes are then cut.
        ended: called after every step with the number of finished episodes.

    Raises:
        Interrupted: `stopping` returned True.
    """
    played: list[PlayedEpisode] = []
    for start in range(0, len(seeds), env.num_envs):
        batch = seeds[start : start + env.num_envs]
        obs = env.reset([*batch, *[batch[-1]] * (env.num_envs - len(batch))])
        recorders, act = [EpisodeRecorder(rows(obs, index), keep, stack) for index in range(len(batch))], policy()
        for index, recorder in enumerate(recorders):
            recorder.mission = mission_of(env.spaces.observation, rows(obs, index))
        while any(recorder.running for recorder in recorders) and not enough(recorders):
            if stopping():
                raise Interrupted("stopped while episodes were played")
            if watch:
                watch(env)
            action = act(obs)
            step = env.step(action)
            stored = act.labels if isinstance(act, LabelingPolicy) else action
            for index, recorder in enumerate(recorders):
                recorder.add_step(index, stored[index], step)
            ended(len(played) + sum(not recorder.running for recorder in recorders))
            obs = step.obs
        played += [recorder.played() for recorder in recorders]
    return played


class EpisodeProgress(Protocol):
    """How far an episode is."""

    @property
    def length(self) -> int:
        """Number of steps so far."""

    @property
    def running(self) -> bool:
        """False once the episode has ended."""


class EpisodeRecorder:
    """Records one running episode."""

    def __init__(self, obs: Any, keep: bool, stack: int) -> None:
        self._keep, self._stack = keep, stack
        self._observations = [self._newest(obs)] if keep else []
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._terminated = False
        self.success: float | None = None
        self.succeeded: float | None = None
        self.mission: str | None = None
        self.running = True

    def _newest(self, obs: Any) -> Any:
        # copied, as a view would keep the stacks of all steps in memory
        return obs[-1].copy() if self._stack > 1 else obs

    def add_step(self, index: int, action: Any, step: Step) -> None:
        """Adds a step of environment `index` unless the episode has ended; `action` is the action to store."""
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
        """Number of steps so far."""
        return len(self._rewards)

    def played(self) -> PlayedEpisode:
        """Returns the result so far."""
        episode = self._episode() if self._keep else None
        episode_return = float(np.sum(self._rewards))
        return PlayedEpisode(episode_return, self.length, self.success, episode, self.succeeded, self.mission)

    def _episode(self) -> Episode:
        first = self._observations[0]
        observations: Any
        if isinstance(first, dict):
            observations = {name: np.stack([obs[name] for obs in self._observations]) for name in first}
        else:
            observations = np.stack(self._observations)
        rewards, truncated = np.array(self._rewards, np.float32), not self.running and not self._terminated
        return Episode(observations, np.stack(self._actions), rewards, self._terminated, truncated)


def holds_transitions(recorders: Sequence[EpisodeProgress], transitions: float) -> bool:
    """True if the first `transitions` steps of the episodes, in order, cannot change as running episodes go on."""
    count = 0
    for recorder in recorders:
        count += recorder.length
        if count >= transitions or recorder.running:
            break
    return count >= transitions


def success_rates(played: Sequence[PlayedEpisode]) -> dict[str, float | None]:
    """Mean success at the end of episodes and at any step; None if the environment reported no success."""
    ends = [episode.success for episode in played if episode.success is not None]
    times = [episode.succeeded for episode in played if episode.succeeded is not None]
    return {
        "success_rate": float(np.mean(ends)) if ends else None,
        "success_once_rate": float(np.mean(times)) if times else None,
    }


def success_by_mission(played: Sequence[PlayedEpisode]) -> dict[str, dict[str, Any]]:
    """Number and success rate of the episodes of each kind of mission, the most frequent first."""
    kinds: dict[str, list[PlayedEpisode]] = {}
    for episode in played:
        if episode.mission is not None:
            kinds.setdefault(kind_of_mission(episode.mission), []).append(episode)
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        kind: {"episodes": len(episodes), "success_rate": success_rates(episodes)["success_rate"]}
        for kind, episodes in ordered
    }


@dataclass
class Evaluation:
    """Evaluates products on episodes with the same reset seeds."""

    env: VecEnv
    device: torch.device
    rng: Callable[[int], Rng | None]  # member -> random numbers of its actions; None for greedy actions
    play: Callable[[Callable[[], PolicyFunction]], list[PlayedEpisode]]  # plays an episode for each reset seed
    asked: bool  # the product is listed in `policies` of the evaluation; a person plays only then

    def scores(self, policies: Sequence[Callable[[], PolicyFunction]]) -> dict[str, Any]:
        """Plays the policies of a product's members and returns the statistics of all episodes."""
        members = [self.play(policy) for policy in policies]
        return summarize([[episode.episode_return for episode in played] for played in members], sum(members, []))


def summarize(returns: list[list[float]], played: list[PlayedEpisode]) -> dict[str, Any]:
    """Statistics of the undiscounted returns of every member's episodes, of lengths and of success.

    Where the environment reports success or gives missions, also of the lengths of successful episodes and by mission.
    """
    values = np.array(returns).ravel()
    summary: dict[str, Any] = {
        "return_mean": float(values.mean()), "return_std": float(values.std()), "return_min": float(values.min()),
        "return_max": float(values.max()), "episodes": len(values),
        "length_mean": float(np.mean([episode.length for episode in played])), **success_rates(played),
    }  # fmt: skip
    lengths = [episode.length for episode in played if episode.success == 1]
    if lengths:
        summary["success_length_mean"] = float(np.mean(lengths))
    if kinds := success_by_mission(played):
        summary["by_mission"] = kinds
    if len(returns) > 1:
        summary["members"] = [float(np.mean(values)) for values in returns]
    return summary


def clip_action(spaces: Spaces, action: Array) -> Array:
    """Clips continuous actions [..., A] to the bounds of the space, so that stored actions are the executed ones."""
    if spaces.actions == "discrete":
        return action
    space: Any = spaces.action
    clipped: Array = np.clip(action, space.low, space.high).astype(np.float32)
    return clipped
