"""Interactive source: the learner acts and an expert labels the states that it visits."""

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from lfd.batch import Batch, tensors
from lfd.data import Dataset, Writer
from lfd.data.episode import cut_episode
from lfd.envs import Spaces, VecEnv
from lfd.envs.spaces import Array
from lfd.episodes import (
    LabelingPolicy,
    PlayedEpisode,
    PolicyFunction,
    agent_policy,
    clip_action,
    holds_transitions,
    play,
)
from lfd.errors import UserError
from lfd.experts.experts import Expert, Queue, make_eval_envs, render_first
from lfd.experts.labels import REQUEST, ROUND_DATA, VISITED, read_all_labels, save_picture, save_request
from lfd.files import replace_symlink, save_tensors
from lfd.rng import GeneratorRng, Rng, derive, reset_seeds
from lfd.schedule import parse_schedule
from lfd.sources import Collector, Source, SourceContext, Stream
from lfd.sources.columns import AggregatedColumns
from lfd.sources.dataset import statistics
from lfd.sources.sampler import IndexSampler
from lfd.sources.teacher import take_expert_actions
from lfd.sources.use import SourceUse

POLICY_FILE, LATEST_LINK = "policy.safetensors", "latest"


@dataclass
class Interactive(Source):
    """DAgger's data (Ross et al. 2011): the learner acts, and an expert labels the states that it visits.

    Batches are drawn from the states of all rounds so far, with the expert's actions.
    """

    interacts: ClassVar[bool] = True
    updates_normalizer: ClassVar[bool] = True
    keeps_round_policies: ClassVar[bool] = True

    expert: str = "expert"  # the stage of the expert
    initial_dataset: str = ""  # a stage whose dataset is round 0; empty = none
    # probability that the expert's action is taken, in each environment at each step: a number, or a schedule over
    # rounds; 0 for an offline annotator (queue)
    beta: Any = 0.0
    episodes: int = 3  # minimum number of whole episodes in a round
    transitions: int = 500  # minimum number of states in a round
    max_transitions: int | None = (
        None  # maximum number of states in a round, where its last episode is cut; null = none
    )
    num_envs: int = 8  # environments
    stochastic: bool = True  # sample the learner's actions from its policy; false = greedy

    def __post_init__(self) -> None:
        parse_schedule(self.beta, "beta", 0, 1)
        for name in ("episodes", "transitions", "max_transitions", "num_envs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}: expected 1 or more, got {value}")

    def provides(self, sources: Mapping[str, Source]) -> frozenset[str]:
        # no rewards, as they belong to the executed actions and not to the expert's
        return frozenset({"obs", "action"})

    def products(self, name: str) -> tuple[str, ...]:
        return (self.initial_dataset,) if self.initial_dataset else ()

    def experts(self) -> tuple[str, ...]:
        return (self.expert,)

    def env_steps(self, use: SourceUse) -> int:
        return self.transitions * (use.rounds or 1)

    @property
    def draws_actions(self) -> bool:
        return self.stochastic

    def open(self, context: SourceContext) -> Stream:
        return InteractiveStream(self, context)


class InteractiveStream(Collector):
    """Plays rounds and draws batches from all of them.

    A round is stored in `context.product_folder` as round-000/data.hdf5, beside the weights of the learner that acted;
    `latest` is a link to the newest round. A round depends on the learner and the number of the round only: a stored
    round is not played again, and a checkpoint may be made at any step.
    """

    interacts = False

    def __init__(self, source: Interactive, context: SourceContext) -> None:
        assert context.env is not None
        super().__init__()
        self.source, self.context = source, context
        self._expert: Expert = context.products[source.expert]
        self._queue = isinstance(self._expert, Queue)
        self._beta = parse_schedule(0.0 if self._queue else source.beta, "beta")
        self._env: VecEnv | None = None
        self._columns, self._sampler = AggregatedColumns(context), IndexSampler(context)
        self._first = 0
        if source.initial_dataset:
            self._columns.add(context.products[source.initial_dataset])
            self._first = 1
        self._round = self._first  # number of the next round

    def begin_round(self) -> None:
        folder = self._folder(self._round)
        if not (folder / ROUND_DATA).exists():
            self._make_round(folder)
        data = self._add_round(folder)
        for part in statistics(data):
            self.context.agent.update_normalizers(tensors(part, self.context.device))
        self._ended += [
            (float(value), int(n)) for value, n in zip(data.returns(), data.ends - data.starts, strict=True)
        ]
        self.env_steps += int(data.metadata["made_by"]["env_steps"])
        self._round += 1
        self._sampler.resize(len(self._columns))

    def next(self) -> Batch:
        if not len(self._columns):
            raise UserError(
                f"algo.phases: expected phases for the interactive source {self.context.name!r}, which collects when a "
                "round begins, got none; add a phase"
            )
        return self._columns.gather(self._sampler.next())

    def epoch_steps(self) -> int:
        return max(-(-len(self._columns) // self.context.batch), 1)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = self._sampler.save()
        return saved, {**state, "round": self._round, "env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        for number in range(self._first, int(state["round"])):
            self._add_round(self._folder(number))
        self._round, self.env_steps = int(state["round"]), int(state["env_steps"])
        self._sampler.resize(len(self._columns))
        self._sampler.restore(tensors, state)

    def round_policies(self) -> list[Path]:
        return [self._folder(number) / POLICY_FILE for number in range(self._first, self._round)]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _folder(self, number: int) -> Path:
        return self.context.product_folder / f"round-{number:03d}"

    def _add_round(self, folder: Path) -> Dataset:
        data = Dataset.open(folder / ROUND_DATA)
        self._columns.add(data)
        return data

    # Playing

    def _make_round(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        replace_symlink(folder.parent / LATEST_LINK, folder.name)
        save_tensors(folder / POLICY_FILE, self.context.agent.state_dict())
        if not self._queue:
            self._play(folder, folder / ROUND_DATA)
            return
        if not (folder / REQUEST).exists():
            self._play(folder, folder / VISITED)
            assert self.context.env is not None
            save_request(folder, self._round, self.context.env.action_names())
        labels, visited = read_all_labels(folder), Dataset.open(folder / VISITED)
        writer = Writer(folder / "shards", visited.spaces, visited.stack)
        for index, (start, end) in enumerate(zip(visited.starts, visited.ends, strict=True)):
            if index >= writer.episodes:
                episode = visited.episode(index)
                episode.actions = labels[start:end]
                writer.add(episode)
        writer.finalize(folder / ROUND_DATA, {name: visited.metadata[name] for name in ("env", "made_by")})
        shutil.rmtree(folder / "shards")

    def _play(self, folder: Path, path: Path) -> None:
        """Plays batches of episodes until there are enough; each batch is stored once it has ended."""
        env_spec, source = self.context.env, self.source
        assert env_spec is not None
        if self._env is None:
            self._env = make_eval_envs(env_spec, [self._expert], source.num_envs)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(path.parent / "shards", self.context.agent.spaces, env_spec.stack)
        limit = source.max_transitions or np.inf
        while writer.transitions < limit and (
            writer.transitions < source.transitions or writer.episodes < source.episodes
        ):
            self.context.set_activity(f"playing round {self._round}", writer.transitions, source.transitions, "states")
            batch, env_steps = int(writer.cursor.get("batch", 0)), int(writer.cursor.get("env_steps", 0))
            for played in self._play_batch(folder, batch, writer.transitions):
                assert played.episode is not None
                env_steps += played.length
                if writer.transitions < limit:
                    writer.add(cut_episode(played.episode, int(min(limit - writer.transitions, played.length))))
            writer.commit({"batch": batch + 1, "env_steps": env_steps})
        self.context.set_activity("")
        made_by = {"round": self._round, "beta": self._beta(self._round), "env_steps": writer.cursor["env_steps"]}
        writer.finalize(path, {"env": env_spec.fingerprint(), "made_by": made_by})
        shutil.rmtree(path.parent / "shards")

    def _play_batch(self, folder: Path, batch: int, count: int) -> list[PlayedEpisode]:
        """Plays an episode in each environment; for a queue it saves pictures of states, numbered from `count`."""
        env, agent, device = self._env, self.context.agent, self.context.device
        assert env is not None and self.context.env is not None
        seed, numbers = derive(self.context.seed, "round", self._round, batch), itertools.count(count)
        rng = GeneratorRng(seed, device)

        def policy() -> PolicyFunction:
            learner = agent_policy(agent, env.num_envs, device, rng if self.source.stochastic else None)
            expert = None if self._queue else self._expert.policy(env, device)
            if expert is not None and self._expert.is_person:
                expert = AnswerLog(expert, folder / f"answers-{batch:03d}.jsonl")
            return MixturePolicy(learner, expert, self._beta(self._round), rng, env.spaces)

        def keep_picture(env: VecEnv) -> None:
            if (picture := render_first(env)) is not None:
                save_picture(folder, next(numbers), picture)

        return play(
            env, policy, reset_seeds(env.num_envs, seed), keep=True, stack=self.context.env.stack,
            stopping=self.context.stopping, watch=keep_picture if self._queue else None,
            # later transitions would be cut off
            enough=partial(holds_transitions, transitions=(self.source.max_transitions or np.inf) - count),
        )  # fmt: skip


@final
class MixturePolicy(LabelingPolicy):
    """Takes the expert's action with probability `beta` in each environment, else the learner's.

    The labels are the expert's actions. Without an expert they are the learner's, until a queue's labels replace them.
    """

    def __init__(
        self, learner: PolicyFunction, expert: PolicyFunction | None, beta: float, rng: Rng, spaces: Spaces
    ) -> None:
        self._learner, self._expert, self._beta, self._rng, self._spaces = learner, expert, beta, rng, spaces

    def __call__(self, obs: Any) -> Array:
        action = self._learner(obs)
        self.labels = action if self._expert is None else clip_action(self._spaces, self._expert(obs))
        return take_expert_actions(action, self.labels, self._beta, self._rng)


class AnswerLog:
    """A person's policy whose answers are saved one by one, so that a resumed run does not ask for them again.

    Environments and learner repeat their steps in a resumed run, so that saved answers fit their states.
    """

    def __init__(self, policy: PolicyFunction, path: Path) -> None:
        self._policy, self._path = policy, path
        # an incomplete last line is dropped: the run was killed while it was written
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        self._saved = [json.loads(line) for line in lines]
        path.write_text("".join(f"{line}\n" for line in lines))
        self._count = 0

    def __call__(self, obs: Any) -> Any:
        self._count += 1
        if self._count <= len(self._saved):
            return np.asarray(self._saved[self._count - 1])
        answer = self._policy(obs)
        with self._path.open("a") as file:
            file.write(json.dumps(answer.tolist()) + "\n")
        return answer
