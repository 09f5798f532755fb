"""collect: play policies and store their episodes as a dataset."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfd.data import Dataset, Writer
from lfd.data.episode import cut_episode
from lfd.envs import Spaces
from lfd.episodes import EpisodeRecorder, PlayedEpisode, PolicyFunction, clip_action, holds_transitions, play
from lfd.errors import UserError
from lfd.experts.experts import Expert, make_eval_envs
from lfd.hardware import check_disk, check_memory
from lfd.nets import has_frames
from lfd.rng import GeneratorRng, Rng, derive, reset_seeds
from lfd.stages import (
    CheckContext,
    DatasetSummary,
    Estimate,
    EstimateContext,
    Product,
    Stage,
    StageContext,
    Summary,
    positive,
)
from lfd.stages.policies import check_policies, split_name
from lfd.stages.sizes import least_row_bytes

DATA = "data.hdf5"
MAX_REJECTED = 200  # episodes in a row outside [min_return, max_return], after which the stage fails


@dataclass
class Collect(Stage):
    """Plays policies in the environment and stores their episodes as a dataset."""

    policy: str = ""  # the policy: a stage, "<stage>@<k>" for a snapshot of it, or "random"
    policies: dict[str, float] = field(default_factory=dict)  # several with their fractions of the data, not `policy`
    transitions: int | None = None  # exact number of transitions, the last episode is cut; not with `episodes`
    episodes: int | None = None  # number of complete episodes; not with `transitions`
    epsilon: float = 0.0  # probability of a uniform random action; not with `epsilons`
    # Probabilities for equal parts of the data of each policy; column infos/noise holds that of each transition.
    epsilons: list[float] = field(default_factory=list)
    # Standard deviation of Gaussian noise on continuous actions, in half ranges of the action space.
    action_noise: float = 0.0
    stochastic: bool = False  # sample actions of stochastic policies; false takes the mode
    min_return: float | None = None  # least undiscounted return of a stored episode
    max_return: float | None = None  # largest undiscounted return of a stored episode
    num_envs: int = 8  # episodes in parallel
    seed: int = 0  # of start states, noise and sampled actions

    def __post_init__(self) -> None:
        if bool(self.policy) == bool(self.policies) and self.policy != "???":
            raise UserError("policy: expected either policy or policies; leave one of them empty")
        if (self.transitions is None) == (self.episodes is None):
            raise UserError("transitions: expected either transitions or episodes; set the other to null")
        positive(self, transitions=self.transitions, episodes=self.episodes, num_envs=self.num_envs)
        if self.epsilon and self.epsilons:
            raise UserError("epsilon: expected either epsilon or epsilons; set epsilon to 0")
        for name, levels in (("epsilon", [self.epsilon]), ("epsilons", list(self.epsilons))):
            if not all(0 <= level <= 1 for level in levels):
                raise UserError(f"{name}: expected probabilities in [0, 1], got {levels}")
        if self.action_noise < 0:
            raise UserError(f"action_noise: expected 0 or more, got {self.action_noise}")
        if self.policies and (abs(sum(self.policies.values()) - 1) > 1e-6 or min(self.policies.values()) <= 0):
            raise UserError(f"policies: expected positive fractions that sum to 1, got {dict(self.policies)}")
        if self.min_return is not None and self.max_return is not None and self.min_return > self.max_return:
            raise UserError(f"min_return: expected at most max_return={self.max_return:g}, got {self.min_return:g}")

    @property
    def fractions(self) -> dict[str, float]:
        return self.policies or {self.policy: 1.0}

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.dataset})

    def inputs(self) -> dict[str, Product]:
        names = [split_name(name)[0] for name in self.fractions]
        return dict.fromkeys((name for name in names if name != "random"), Product.actor)

    def check(self, context: CheckContext) -> None:
        check_policies(context, self.fractions, self.stochastic)
        name, spaces = context.name, context.spaces
        rows = (self.transitions or 0) * least_row_bytes(spaces, context.stack)
        check_disk(f"{name}.transitions={self.transitions}", rows, context.store)
        check_memory(f"{name}.num_envs={self.num_envs}", self.num_envs * least_row_bytes(spaces))

    def interacts(self) -> bool:
        return True

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "transitions" if self.transitions else "episodes"

    def length(self) -> int | None:
        return self.transitions or self.episodes

    def row_count(self) -> int | None:
        return self.transitions

    def dataset_bytes(self, context: EstimateContext) -> int:
        return self._rows(context) * context.row_bytes

    def _rows(self, context: EstimateContext) -> int:
        return self.transitions or (self.episodes or 0) * context.episode

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        times = [context.seconds_per_transition(split_name(policy)[0]) for policy in self.fractions]
        seconds = max(times, key=lambda time: time.high) * self._rows(context)
        running_episodes = self.num_envs * context.episode * context.row_bytes
        return Estimate(seconds, running_episodes, self.dataset_bytes(context))

    def shortened(self, name: str) -> list[str]:
        return [f"set fewer {name}.transitions or {name}.episodes"]

    def run(self, context: StageContext) -> Summary:
        frames = has_frames(context.spaces.observation)
        context.hardware.set_num_threads(frames)
        collection = _Collection(self, context)
        collection.run()
        data = Dataset.open(context.folder / DATA)
        return DatasetSummary(0, collection.env_steps, collection.seconds(), metadata=data.metadata)

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / DATA)


class _Collection:
    """A running collection: batches of episodes, after each of which data and progress are committed together."""

    def __init__(self, stage: Collect, context: StageContext) -> None:
        assert context.env is not None
        self.stage, self.context, self.stack = stage, context, context.env.stack
        self.device = context.hardware.torch_device()
        self.env = make_eval_envs(context.env, list(context.products.values()), stage.num_envs)
        self.writer = Writer(context.folder / "shards", context.spaces, self.stack)
        self.best, self.worst = -np.inf, np.inf
        self.env_steps = int(self.writer.cursor.get("env_steps", 0))  # of all episodes, stored or not
        self._earlier_seconds = float(self.writer.cursor.get("seconds", 0.0))
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Duration, over all sessions."""
        return self._earlier_seconds + time.monotonic() - self._started

    def run(self) -> None:
        try:
            for name, level, amount in self._portions():
                self._fill(name, level, amount)
        finally:
            self.env.close()
        noise = {"epsilon": list(self.stage.epsilons) or self.stage.epsilon, "action_noise": self.stage.action_noise}
        made_by = {"policies": dict(self.stage.fractions), **noise}
        assert self.context.env is not None
        self.writer.finalize(self.context.folder / DATA, {"env": self.context.env.fingerprint(), "made_by": made_by})

    def _portions(self) -> list[tuple[str, float, int]]:
        """Policy, epsilon, and the amount of data at the end of each portion."""
        total, levels = self.stage.length(), list(self.stage.epsilons) or [self.stage.epsilon]
        assert total is not None
        portions = [
            (name, level, part / len(levels)) for name, part in self.stage.fractions.items() for level in levels
        ]
        ends = np.cumsum([part for *_, part in portions]) * total
        return [(name, level, round(end)) for (name, level, _), end in zip(portions, ends, strict=True)]

    def _amount(self) -> int:
        return self.writer.transitions if self.stage.transitions else self.writer.episodes

    def _fill(self, name: str, level: float, amount: int) -> None:
        self.best, self.worst, rejected = -np.inf, np.inf, 0
        while self._amount() < amount:
            batch = int(self.writer.cursor.get("batches", 0))
            stored = self._play_episodes(name, level, batch, amount)
            self.writer.commit({"batches": batch + 1, "env_steps": self.env_steps, "seconds": self.seconds()})
            rejected = 0 if stored else rejected + self.env.num_envs
            if rejected >= MAX_REJECTED:
                raise self._search_failed(name, rejected)
            self.context.progress.update(self._amount())

    def _search_failed(self, name: str, rejected: int) -> UserError:
        low, high = self.stage.min_return, self.stage.max_return
        if low is not None and self.best < low:
            return UserError(
                f"min_return={low:g}: none of {rejected} episodes of {name!r} reached it, the best returned "
                f"{self.best:.1f}; lower min_return or use a better policy"
            )
        if high is not None and self.worst > high:
            return UserError(
                f"max_return={high:g}: all of {rejected} episodes of {name!r} exceeded it, the worst returned "
                f"{self.worst:.1f}; raise max_return or use a worse policy"
            )
        return UserError(
            f"min_return={low:g} max_return={high:g}: none of {rejected} episodes of {name!r} lay between them; "
            "move them apart"
        )

    def _play_episodes(self, name: str, level: float, batch: int, amount: int) -> int:
        """Plays one episode in each environment; returns the number of stored episodes."""
        stage, count = self.stage, self.env.num_envs
        seeds = reset_seeds(count, stage.seed, "episode", batch)
        rng = GeneratorRng(derive(stage.seed, "noise", batch), self.device)

        def policy() -> PolicyFunction:
            return noisy_policy(self._policy(name, rng), self.context.spaces, count, rng, level, stage.action_noise)

        missing = amount - self._amount()

        def enough(recorders: list[EpisodeRecorder]) -> bool:
            if stage.min_return is not None or stage.max_return is not None:
                return False  # the return is known at the end of an episode only
            if stage.transitions:
                return holds_transitions(recorders, missing)
            return not any(recorder.running for recorder in recorders[:missing])

        def report(finished: int) -> None:
            self.context.progress.set_activity(f"playing {name}", finished, count, "episodes")

        report(0)
        played = play(self.env, policy, seeds, True, self.stack, self.context.stopping, enough=enough, ended=report)
        self.context.progress.set_activity("")
        stored = 0
        for result in played:
            self.env_steps += result.length
            self.best, self.worst = max(self.best, result.episode_return), min(self.worst, result.episode_return)
            stored += self._store(result, level, amount)
        return stored

    def _store(self, played: PlayedEpisode, level: float, amount: int) -> bool:
        """Stores an episode unless there is enough data or its return is out of bounds; returns whether it did."""
        stage, episode = self.stage, played.episode
        assert episode is not None
        low, high = stage.min_return, stage.max_return
        is_within = (low is None or played.episode_return >= low) and (high is None or played.episode_return <= high)
        if self._amount() >= amount or not is_within:
            return False
        limit = amount - self.writer.transitions if stage.transitions else len(episode)
        if stage.epsilons:
            episode.infos["noise"] = np.full(played.length, level, np.float32)
        self.writer.add(cut_episode(episode, limit))
        return True

    def _policy(self, name: str, rng: Rng) -> PolicyFunction | None:
        base, snapshot = split_name(name)
        if base == "random":
            return None
        expert: Expert = self.context.products[base]
        return expert.policy(self.env, self.device, snapshot, rng if self.stage.stochastic else None)


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
