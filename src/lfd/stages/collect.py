"""collect: play policies and store their episodes as a dataset."""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from lfd.data import Dataset, Writer
from lfd.data.episode import cut_episode
from lfd.episodes import EpisodeProgress, PlayedEpisode, holds_transitions
from lfd.errors import UserError
from lfd.hardware import check_disk, check_memory
from lfd.nets import has_frames
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
from lfd.stages.player import CutEpisode, Player
from lfd.stages.policies import check_policies, split_name
from lfd.stages.sizes import least_row_bytes
from lfd.stages.workers import in_workers

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

    def is_enough(self, episodes: Sequence[EpisodeProgress], missing: int) -> bool:
        """True if the episodes so far hold the `missing` data."""
        if self.min_return is not None or self.max_return is not None:
            return False  # the return is known at the end of an episode only
        if self.transitions:
            return holds_transitions(episodes, missing)
        return not any(episode.running for episode in episodes[:missing])

    def player(self, context: StageContext) -> Player:
        """A player of the stage's episodes, with environments of its own."""
        return Player(context, self.num_envs, self.seed, self.stochastic, self.action_noise, self.is_enough)

    def run(self, context: StageContext) -> Summary:
        frames = has_frames(context.spaces.observation)
        context.hardware.set_up_torch(frames)
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
        self.stage, self.context = stage, context
        self.player = stage.player(context)
        self.writer = Writer(context.folder / "shards", context.spaces, context.env.stack)
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
            self.player.env.close()
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

    def _batch(self) -> int:
        """Number of the next batch of episodes."""
        return int(self.writer.cursor.get("batches", 0))

    def _fill(self, name: str, level: float, amount: int) -> None:
        self.best, self.worst, rejected = -np.inf, np.inf, 0
        with closing(self._batches(name, level, amount)) as batches:
            while self._amount() < amount:
                stored = self._store_all(next(batches), level, amount)
                self.writer.commit(
                    {"batches": self._batch() + 1, "env_steps": self.env_steps, "seconds": self.seconds()}
                )
                rejected = 0 if stored else rejected + self.player.env.num_envs
                if rejected >= MAX_REJECTED:
                    raise self._search_failed(name, rejected)
                self.context.progress.update(self._amount())

    def _batches(self, name: str, level: float, amount: int) -> Generator[list[PlayedEpisode]]:
        """The next batches of episodes, as many as are asked for; those of a script are played on all cores."""
        # In a worker a batch begins before all earlier ones are stored, so it may play more than is missing then.
        tasks = ((name, level, batch, amount - self._amount()) for batch in count(self._batch()))
        cores = self.context.hardware.num_cores()
        if cores > 1 and sys.platform == "linux" and self.player.is_script(name):

            def make(stopping: Callable[[], bool]) -> Callable[..., list[PlayedEpisode]]:
                return partial(self.stage.player(self.context).play, stopping=stopping)

            yield from in_workers(make, tasks, cores, self.context.stopping)
        for task in tasks:
            yield self._play_here(*task)

    def _play_here(self, name: str, level: float, batch: int, missing: int) -> list[PlayedEpisode]:
        def report(finished: int) -> None:
            self.context.progress.set_activity(f"playing {name}", finished, self.player.env.num_envs, "episodes")

        report(0)
        played = self.player.play(name, level, batch, missing, self.context.stopping, report)
        self.context.progress.set_activity("")
        return played

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

    def _store_all(self, played: list[PlayedEpisode], level: float, amount: int) -> int:
        """Stores a batch of episodes; returns the number of stored ones."""
        missing, stored = amount - self._amount(), 0
        for result in played:
            self.best, self.worst = max(self.best, result.episode_return), min(self.worst, result.episode_return)
            stored += self._store(result, level, amount)
        lengths = [result.length for result in played]
        self.env_steps += self._steps_until_enough(lengths, missing) if self._amount() >= amount else sum(lengths)
        return stored

    def _steps_until_enough(self, lengths: list[int], missing: int) -> int:
        """Environment steps of the last batch up to where its data sufficed, wherever it was played further."""
        for step in range(max(lengths) + 1):
            recorders = [CutEpisode(min(length, step), step < length) for length in lengths]
            if self.stage.is_enough(recorders, missing):
                break
        return sum(recorder.length for recorder in recorders)

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
