"""Interactive: the learner drives, an expert says what it should have done, and all of that is learnt from."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lfd.batch import Batch, rows, tensors
from lfd.data import Dataset, Writer
from lfd.data.episode import cut
from lfd.envs import VecEnv
from lfd.episodes import Lane, Played, Policy, covered, greedy, inside
from lfd.errors import Interrupted, Refused
from lfd.experts import Expert, Queue, before, picture
from lfd.files import point, save_tensors
from lfd.labels import DATA, REQUEST, VISITED, all_labels, save_picture, save_request
from lfd.noise import Generated, derive
from lfd.schedule import schedule
from lfd.sources import Source, Stream, World
from lfd.sources.dataset import statistics
from lfd.sources.draws import Draws
from lfd.sources.table import Tables

POLICY, LATEST = "policy.safetensors", "latest"


@dataclass
class Interactive(Source):
    """DAgger's data (Ross et al. 2011): round after round of states, each with the action of the expert."""

    interacts: ClassVar[bool] = True

    expert: str = "expert"  # the stage that says what should be done
    given: str = ""  # a stage whose dataset is there beforehand, as round 0
    # Chance that the expert drives, anew in each environment at each step: a number, or a schedule over rounds. An
    # expert that labels later is not there to drive: then it is 0.
    beta: Any = 0.0
    episodes: int = 3  # whole episodes in a round, at least
    transitions: int = 500  # states in a round, at least
    most: int | None = None  # states in a round; its last episode is cut there
    num_envs: int = 8  # episodes played side by side
    sample: bool = True  # the learner draws from its policy instead of taking the mode

    def __post_init__(self) -> None:
        schedule(self.beta, "beta of an interactive source", 0, 1)
        for name in ("episodes", "transitions", "most", "num_envs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refused(f"{name} of an interactive source is {value}; 1 or more is expected")

    def gives(self, sources: Mapping[str, Source]) -> frozenset[str]:
        # No rewards: they are of what was done, which need not be what the expert would have done.
        return frozenset({"obs", "action"})

    def products(self, name: str) -> tuple[str, ...]:
        return (self.given,) if self.given else ()

    def experts(self) -> tuple[str, ...]:
        return (self.expert,)

    def open(self, world: World) -> Stream:
        return InteractiveStream(self, world)


class InteractiveStream(Stream):
    """Rounds lie in `world.kept`: round-000/data.hdf5, and beside it the weights of the learner that drove.

    `latest` is a link to the newest round.

    A round depends on nothing but the learner and the number of the round, so that one that is there is not played
    again, and a checkpoint may fall anywhere.
    """

    def __init__(self, source: Interactive, world: World) -> None:
        assert world.env is not None
        self.source, self.world = source, world
        self.env_steps = 0
        self._expert: Expert = world.experts[source.expert]
        self._queue = isinstance(self._expert, Queue)
        self._beta = schedule(0.0 if self._queue else source.beta, "beta")
        self._env: VecEnv | None = None
        self._tables, self._draws = Tables(world), Draws(world)
        self._first = 0
        if source.given:
            self._tables.add(world.datasets[source.given])
            self._first = 1
        self._round = self._first  # the next one
        self._ended: list[tuple[float, int]] = []

    def begin_round(self) -> None:
        folder = self._folder(self._round)
        if not (folder / DATA).exists():
            self._make(folder)
        data = self._take(folder)
        for part in statistics(data):
            self.world.agent.update_normalisers(tensors(part, self.world.device))
        self._ended += [
            (float(value), int(n)) for value, n in zip(data.returns(), data.ends - data.starts, strict=True)
        ]
        self.env_steps += int(data.passport["made_by"]["env_steps"])
        self._round += 1
        self._draws.over(len(self._tables))

    def next(self) -> Batch:
        if not len(self._tables):
            raise Refused(f"{self.world.name}: an interactive source collects when a round begins; add phases")
        return self._tables.gather(self._draws.next())

    def epoch_steps(self) -> int:
        return max(-(-len(self._tables) // self.world.batch), 1)

    def episodes(self) -> list[tuple[float, int]]:
        ended, self._ended = self._ended, []
        return ended

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        saved, state = self._draws.save()
        return saved, {**state, "round": self._round, "env_steps": self.env_steps}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        for number in range(self._first, int(state["round"])):
            self._take(self._folder(number))
        self._round, self.env_steps = int(state["round"]), int(state["env_steps"])
        self._draws.over(len(self._tables))
        self._draws.restore(tensors, state)

    def drivers(self) -> list[Path]:
        return [self._folder(number) / POLICY for number in range(self._first, self._round)]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    def _folder(self, number: int) -> Path:
        return self.world.kept / f"round-{number:03d}"

    def _take(self, folder: Path) -> Dataset:
        data = Dataset.open(folder / DATA)
        self._tables.add(data)
        return data

    # Playing

    def _make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        point(folder.parent / LATEST, folder.name)
        save_tensors(folder / POLICY, self.world.agent.state_dict())
        if not self._queue:
            self._play(folder, folder / DATA)
            return
        if not (folder / REQUEST).exists():
            self._play(folder, folder / VISITED)
            assert self.world.env is not None
            save_request(folder, self._round, self.world.env.action_names())
        labels, visited = all_labels(folder), Dataset.open(folder / VISITED)
        writer = Writer(folder / "shards", visited.spaces, visited.stack)
        for index, (start, end) in enumerate(zip(visited.starts, visited.ends, strict=True)):
            if index >= writer.episodes:
                episode = visited.episode(index)
                episode.actions = labels[start:end]
                writer.add(episode)
        writer.finalise(folder / DATA, {name: visited.passport[name] for name in ("env", "made_by")})
        shutil.rmtree(folder / "shards")

    def _play(self, folder: Path, path: Path) -> None:
        """Waves of episodes, each safe once it is over, until there are enough."""
        env_spec, source = self.world.env, self.source
        assert env_spec is not None
        if self._env is None:
            self._env = before(env_spec, [self._expert], source.num_envs)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(path.parent / "shards", self.world.agent.spaces, env_spec.stack)
        most = source.most or np.inf
        while writer.transitions < most and (
            writer.transitions < source.transitions or writer.episodes < source.episodes
        ):
            self.world.doing(f"playing round {self._round}", writer.transitions, source.transitions, "states")
            wave, env_steps = int(writer.cursor.get("wave", 0)), int(writer.cursor.get("env_steps", 0))
            for one in self._wave(folder, wave, writer.transitions):
                assert one.episode is not None
                env_steps += one.length
                if writer.transitions < most:
                    writer.add(cut(one.episode, int(min(most - writer.transitions, one.length))))
            writer.commit({"wave": wave + 1, "env_steps": env_steps})
        self.world.doing("")
        made_by = {"round": self._round, "beta": self._beta(self._round), "env_steps": writer.cursor["env_steps"]}
        writer.finalise(path, {"env": env_spec.fingerprint(), "made_by": made_by})
        shutil.rmtree(path.parent / "shards")

    def _wave(self, folder: Path, wave: int, before: int) -> list[Played]:
        """An episode in each environment; of a queue with a picture of each state, numbered from `before` on."""
        env, agent, device = self._env, self.world.agent, self.world.device
        assert env is not None and self.world.env is not None
        seed = derive(self.world.seed, "round", self._round, wave)
        noise = Generated(seed, device)
        obs = env.reset([derive(seed, index) % 2**31 for index in range(env.num_envs)])
        lanes = [Lane(rows(obs, index), True, self.world.env.stack) for index in range(env.num_envs)]
        learner = greedy(agent, env.num_envs, device, noise if self.source.sample else None)
        expert = None if self._queue else self._expert.policy(env, device)
        if expert is not None and self._expert.is_person:
            expert = Remembered(expert, folder / f"answers-{wave:03d}.jsonl")
        beta = self._beta(self._round)
        room = (self.source.most or np.inf) - before  # what goes beyond it would be cut off
        while any(lane.running for lane in lanes) and not covered(lanes, room):
            if self.world.stopping():
                raise Interrupted("stopped while a round was played")
            if self._queue and (drawn := picture(env)) is not None:
                save_picture(folder, before + lanes[0].length, drawn)
            own = learner(obs)
            advice = own if expert is None else inside(env.spaces, expert(obs))
            drives = noise.uniform(env.num_envs).cpu().numpy() < beta
            step = env.step(np.where(drives.reshape(-1, *[1] * (own.ndim - 1)), advice, own))
            for index, lane in enumerate(lanes):
                lane.follow(index, advice[index], step)
            obs = step.obs
        return [lane.played() for lane in lanes]


class Remembered:
    """A person's answers, kept one by one: whoever is interrupted is not asked again for what was answered.

    Environment and learner do again what they did, so that the answers still belong to their states.
    """

    def __init__(self, policy: Policy, path: Path) -> None:
        self._policy, self._path = policy, path
        # A line that was cut off by a kill is answered again.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        self._given = [json.loads(line) for line in lines]
        path.write_text("".join(f"{line}\n" for line in lines))
        self._asked = 0

    def __call__(self, obs: Any) -> Any:
        self._asked += 1
        if self._asked <= len(self._given):
            return np.asarray(self._given[self._asked - 1])
        answer = self._policy(obs)
        with self._path.open("a") as file:
            file.write(json.dumps(answer.tolist()) + "\n")
        return answer
