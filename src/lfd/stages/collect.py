"""collect: play policies and keep what they did as a dataset."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lfd.data import Dataset, Writer
from lfd.data.episode import cut
from lfd.envs import Spaces
from lfd.episodes import Lane, Policy, covered, inside, play
from lfd.errors import Refused
from lfd.experts import Expert, before
from lfd.nets import has_frames
from lfd.noise import Generated, Noise, derive
from lfd.stages import Lab, Product, Stage, Summary, positive

DATA = "data.hdf5"
FRUITLESS = 200  # episodes in a row that may miss min_return or max_return before the search is given up


@dataclass
class Collect(Stage):
    gives: ClassVar[Product] = Product.dataset

    policy: str = ""  # whose data: a policy by name, "<name>@<k>" for an earlier state of it, or "random"
    policies: dict[str, float] = field(default_factory=dict)  # several of them with their shares, instead of `policy`
    transitions: int | None = None  # how much: exactly so many, the last episode cut; or
    episodes: int | None = None  # so many whole episodes
    epsilon: float = 0.0  # share of random actions; or
    # several, for equal parts of what each policy does; the level is stored with every row as infos/noise
    epsilons: list[float] = field(default_factory=list)
    sigma: float = 0.0  # Gaussian noise on continuous actions, in halves of their range
    sample: bool = False  # draw from stochastic policies instead of taking their mode
    min_return: float | None = None  # episodes below are left out
    max_return: float | None = None  # episodes above are left out
    num_envs: int = 8  # episodes played side by side
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.policy) == bool(self.policies) and self.policy != "???":
            raise Refused("a collect stage needs either a policy or policies with shares")
        if (self.transitions is None) == (self.episodes is None):
            raise Refused("a collect stage needs either transitions or episodes; set the other to null")
        positive(self, transitions=self.transitions, episodes=self.episodes, num_envs=self.num_envs)
        if self.epsilon and self.epsilons:
            raise Refused("a collect stage needs either epsilon or epsilons; set epsilon to 0")
        if not all(0 <= level <= 1 for level in (self.epsilon, *self.epsilons)) or self.sigma < 0:
            given = f"epsilon is {list(self.epsilons) or self.epsilon}, sigma {self.sigma}"
            raise Refused(f"{given}; a share in [0, 1] and 0 or more are expected")
        if self.policies and (abs(sum(self.policies.values()) - 1) > 1e-6 or min(self.policies.values()) <= 0):
            raise Refused(f"shares of policies are {dict(self.policies)}; positive numbers that sum to 1 are expected")
        if self.min_return is not None and self.max_return is not None and self.min_return > self.max_return:
            raise Refused(f"min_return is {self.min_return:g}, above the max_return of {self.max_return:g}")

    @property
    def shares(self) -> dict[str, float]:
        return self.policies or {self.policy: 1.0}

    def inputs(self) -> dict[str, Product]:
        names = [split_name(name)[0] for name in self.shares]
        return dict.fromkeys((name for name in names if name != "random"), Product.actor)

    def check_inputs(self, name: str, stages: Mapping[str, Stage], spaces: Spaces) -> None:
        check_snapshots(name, self.shares, stages)
        for base in self.inputs() if self.sample else ():
            stages[base].check_sampled(f"{name}.sample=true of {base}", spaces)

    def interacts(self) -> bool:
        return True

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "transitions" if self.transitions else "episodes"

    def total(self) -> int | None:
        return self.transitions or self.episodes

    def run(self, lab: Lab) -> Summary:
        with_frames = has_frames(lab.spaces.observation)
        lab.hardware.set_threads(with_frames)
        collection = _Collection(self, lab)
        collection.run()
        data = Dataset.open(lab.folder / DATA)
        return Summary(0, collection.env_steps, collection.seconds(), {"passport": data.passport})

    @staticmethod
    def open(folder: Path) -> Dataset:
        return Dataset.open(folder / DATA)


def split_name(name: str) -> tuple[str, int | None]:
    """ "expert@2" is ("expert", 2), "expert" is ("expert", None)."""
    base, at, index = name.partition("@")
    if at and not index.isdigit():
        raise Refused(f"policy {name!r}: a number is expected behind @, as in {base}@0")
    return base, int(index) if at else None


def check_snapshots(name: str, policies: Iterable[str], stages: Mapping[str, Stage]) -> None:
    """Raise Refused where one of `policies` is a state that will not be kept."""
    for policy in policies:
        base, snapshot = split_name(policy)
        if base in stages:
            stages[base].check_snapshot(f"{name}: {policy}", snapshot)


class _Collection:
    """Waves of episodes; after each the data and the number of the wave are committed together."""

    def __init__(self, stage: Collect, lab: Lab) -> None:
        assert lab.env is not None
        self.stage, self.lab, self.stack = stage, lab, lab.env.stack
        self.device = lab.hardware.open()
        self.env = before(lab.env, list(lab.products.values()), stage.num_envs)
        self.writer = Writer(lab.folder / "shards", lab.spaces, self.stack)
        self.best, self.worst = -np.inf, np.inf
        self.env_steps = int(self.writer.cursor.get("env_steps", 0))  # of all episodes, kept or not
        self._before = float(self.writer.cursor.get("seconds", 0.0))
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Of this session and the ones before."""
        return self._before + time.monotonic() - self._since

    def run(self) -> None:
        try:
            for name, level, amount in self._portions():
                self._fill(name, level, amount)
        finally:
            self.env.close()
        noise = {"epsilon": list(self.stage.epsilons) or self.stage.epsilon, "sigma": self.stage.sigma}
        made_by = {"policies": dict(self.stage.shares), **noise}
        assert self.lab.env is not None
        self.writer.finalise(self.lab.folder / DATA, {"env": self.lab.env.fingerprint(), "made_by": made_by})

    def _portions(self) -> list[tuple[str, float, int]]:
        """Policy, its share of random actions, and how much there must be once its turn is over."""
        total, levels = self.stage.total(), list(self.stage.epsilons) or [self.stage.epsilon]
        assert total is not None
        turns = [(name, level, share / len(levels)) for name, share in self.stage.shares.items() for level in levels]
        ends = np.cumsum([share for *_, share in turns]) * total
        return [(name, level, round(end)) for (name, level, _), end in zip(turns, ends, strict=True)]

    def _held(self) -> int:
        return self.writer.transitions if self.stage.transitions else self.writer.episodes

    def _fill(self, name: str, level: float, amount: int) -> None:
        self.best, self.worst, fruitless = -np.inf, np.inf, 0
        while self._held() < amount:
            wave = int(self.writer.cursor.get("wave", 0))
            kept = self._wave(name, level, wave, amount)
            self.writer.commit({"wave": wave + 1, "env_steps": self.env_steps, "seconds": self.seconds()})
            fruitless = 0 if kept else fruitless + self.env.num_envs
            if fruitless >= FRUITLESS:
                raise self._given_up(name, fruitless)
            self.lab.progress.update(self._held())

    def _given_up(self, name: str, fruitless: int) -> Refused:
        low, high = self.stage.min_return, self.stage.max_return
        if low is not None and self.best < low:
            return Refused(
                f"min_return={low:g}: none of {fruitless} episodes of {name!r} reached it, the best had "
                f"{self.best:.1f}; lower min_return or use a better policy"
            )
        if high is not None and self.worst > high:
            return Refused(
                f"max_return={high:g}: all of {fruitless} episodes of {name!r} exceeded it, the worst had "
                f"{self.worst:.1f}; raise max_return or use a worse policy"
            )
        return Refused(
            f"min_return={low:g} max_return={high:g}: none of {fruitless} episodes of {name!r} lay between them; "
            "move them apart"
        )

    def _wave(self, name: str, level: float, wave: int, amount: int) -> int:
        """One episode in each environment; returns how many were kept."""
        stage, count = replace(self.stage, epsilon=level, epsilons=[]), self.env.num_envs
        seeds = [derive(stage.seed, "episode", wave, index) % 2**31 for index in range(count)]
        noise = Generated(derive(stage.seed, "noise", wave), self.device)

        def policy() -> Policy:
            return behaviour(stage, self._acting(name, noise), self.lab.spaces, count, noise)

        wanted = amount - self._held()

        def enough(lanes: list[Lane]) -> bool:
            if stage.min_return is not None or stage.max_return is not None:
                return False  # only a whole episode tells whether it is wanted
            if stage.transitions:
                return covered(lanes, wanted)
            return not any(lane.running for lane in lanes[:wanted])

        def told(over: int) -> None:
            self.lab.progress.doing(f"playing {name}", over, count, "episodes")

        told(0)
        played = play(self.env, policy, seeds, True, self.stack, self.lab.stopping, enough=enough, ended=told)
        self.lab.progress.doing("")
        kept = 0
        for one in played:
            assert one.episode is not None
            self.env_steps += one.length
            self.best, self.worst = max(self.best, one.value), min(self.worst, one.value)
            low, high = stage.min_return, stage.max_return
            fits = (low is None or one.value >= low) and (high is None or one.value <= high)
            if self._held() < amount and fits:
                limit = amount - self.writer.transitions if stage.transitions else len(one.episode)
                if self.stage.epsilons:
                    one.episode.infos["noise"] = np.full(one.length, level, np.float32)
                self.writer.add(cut(one.episode, limit))
                kept += 1
        return kept

    def _acting(self, name: str, noise: Noise) -> Policy | None:
        base, snapshot = split_name(name)
        if base == "random":
            return None
        expert: Expert = self.lab.products[base]
        return expert.policy(self.env, self.device, snapshot, noise if self.stage.sample else None)


def behaviour(stage: Collect, act: Policy | None, spaces: Spaces, count: int, noise: Generated) -> Policy:
    """How a stage acts in `count` environments: a policy with the stage's noise; uniformly where there is none."""
    random = random_policy(spaces, count, noise)
    if act is None:
        return random
    space: Any = spaces.action

    def noisy(obs: Any) -> Any:
        action = act(obs)
        if stage.sigma and spaces.actions == "continuous":
            reach = ((space.high - space.low) / 2).astype(np.float32)
            action = action + stage.sigma * (reach * noise.normal(*action.shape).cpu().numpy())
        if stage.epsilon:
            explores = noise.uniform(count).cpu().numpy() < stage.epsilon
            action = np.where(explores.reshape(-1, *[1] * (action.ndim - 1)), random(obs), action)
        return inside(spaces, action)

    return noisy


def random_policy(spaces: Spaces, count: int, noise: Generated) -> Policy:
    """Uniform actions."""
    space: Any = spaces.action

    def act(obs: Any) -> Any:
        if spaces.actions == "discrete":
            return (noise.uniform(count) * int(space.n)).long().cpu().numpy()
        uniform = noise.uniform(count, *space.shape).cpu().numpy()
        return (space.low + uniform * (space.high - space.low)).astype(np.float32)

    return act
