"""evaluate: score policies on common episodes."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lfd.data import Dataset
from lfd.envs import Spaces
from lfd.episodes import Played, Policy, greedy, play, success_rates
from lfd.errors import Refused
from lfd.experts import Expert, before
from lfd.files import load_object, save_json
from lfd.nets import has_frames
from lfd.noise import Generated, derive
from lfd.stages import Lab, Product, Stage, Summary, positive
from lfd.stages.collect import check_snapshots, random_policy, split_name
from lfd.stages.trained import Trained


@dataclass
class Evaluate(Stage):
    gives: ClassVar[Product] = Product.scores
    unit: ClassVar[str] = "episodes"

    policies: list[str] = field(default_factory=list)  # whom to score
    also: list[str] = field(default_factory=lambda: ["expert", "demos"])  # scored too if the run has them anyway
    episodes: int = 30  # the same start states for all
    seed: int = 0  # of the start states: one set for all runs, so that these compare like with like
    # draw from stochastic policies instead of taking their mode
    sample: bool = field(default=False, metadata={"key": "set"})
    num_envs: int | None = field(default=None, metadata={"key": "set"})  # played side by side; all, but 16, when null

    def __post_init__(self) -> None:
        positive(self, episodes=self.episodes, num_envs=self.num_envs)
        if not self.policies or len(set(self.policies)) < len(self.policies):
            told = f"is {list(self.policies)}" if self.policies else "is empty"
            raise Refused(f"policies {told}; name whom to score, as in [learn], and each once")

    def inputs(self) -> dict[str, Product]:
        return {split_name(name)[0]: Product.actor for name in self.policies if name != "random"}

    def check_inputs(self, name: str, stages: Mapping[str, Stage], spaces: Spaces) -> None:
        check_snapshots(name, self.policies, stages)
        for base in self.inputs() if self.sample else ():
            stages[base].check_sampled(f"{name}.sample=true of {base}", spaces)

    def beside(self) -> tuple[str, ...]:
        return tuple(self.also)

    def interacts(self) -> bool:
        return True

    def total(self) -> int | None:
        return None

    def run(self, lab: Lab) -> Summary:
        assert lab.env is not None
        lab.hardware.set_threads(has_frames(lab.spaces.observation))
        device = lab.hardware.open()
        asked = [lab.products[split_name(name)[0]] for name in self.policies if name != "random"]
        env = before(lab.env, asked, self.num_envs or min(self.episodes, 16))
        seeds = [derive(self.seed, "start", index) % 2**31 for index in range(self.episodes)]
        scores: dict[str, dict[str, Any]] = {}
        steps, began = 0, time.monotonic()

        def score(name: str, policy: Callable[[], Policy]) -> list[Played]:
            nonlocal steps

            def told(over: int) -> None:
                lab.progress.doing(f"playing {name}", over, len(seeds), "episodes")

            told(0)
            played = play(env, policy, seeds, stopping=lab.stopping, ended=told)
            lab.progress.doing("")
            steps += sum(one.length for one in played)
            lab.progress.update(len(seeds) * (len(scores) + 1))
            return played

        def draws(name: str, member: int = 0) -> Generated | None:
            """What a policy draws its actions by."""
            return Generated(derive(self.seed, "draws", name, member), device) if self.sample else None

        try:
            noise = Generated(derive(self.seed, "random"))
            uniform = score("random", lambda: random_policy(lab.spaces, env.num_envs, noise))
            scores["random"] = summarise([[one.value for one in uniform]], uniform)
            for name in [*self.policies, *(one for one in self.also if one not in self.policies)]:
                base, snapshot = split_name(name)
                product = lab.products.get(base)
                if isinstance(product, Dataset):
                    scores[name] = of_data(product)
                elif isinstance(product, Trained):
                    agents = [agent.to(device) for agent in product.agents(snapshot)]
                    members = [
                        score(name, partial(greedy, agent, env.num_envs, device, draws(name, member)))
                        for member, agent in enumerate(agents)
                    ]
                    scores[name] = summarise([[one.value for one in played] for played in members], sum(members, []))
                elif isinstance(product, Expert) and (name in self.policies or not product.is_person):
                    alone = score(name, partial(product.policy, env, device, snapshot, draws(name)))
                    scores[name] = summarise([[one.value for one in alone]], alone)
        finally:
            env.close()
        normalise(scores)
        save_json(lab.folder / "scores.json", scores)
        return Summary(env_steps=steps, seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        return load_object(folder / "scores.json", "random")


def summarise(returns: list[list[float]], played: list[Played]) -> dict[str, Any]:
    """Mean and spread of the undiscounted returns of every member's episodes; success where the environment says so."""
    values = np.array(returns).ravel()
    summary: dict[str, Any] = {
        "return_mean": float(values.mean()), "return_std": float(values.std()), "return_min": float(values.min()),
        "return_max": float(values.max()), "episodes": len(values),
        "length_mean": float(np.mean([one.length for one in played])), **success_rates(played),
    }  # fmt: skip
    if len(returns) > 1:
        summary["members"] = [float(np.mean(values)) for values in returns]
    return summary


def of_data(data: Dataset) -> dict[str, Any]:
    """How well whoever made the data did, over its whole episodes (over all, if each was cut)."""
    returns = data.returns()[data.whole()]
    return {
        "return_mean": float(returns.mean()), "return_std": float(returns.std()), "return_min": float(returns.min()),
        "return_max": float(returns.max()), "episodes": len(returns), **success_rates([]),
    }  # fmt: skip


def normalise(scores: dict[str, dict[str, Any]]) -> None:
    """0 is the random policy, 1 the expert, where the run has one that is better than random."""
    low, high = scores["random"]["return_mean"], scores.get("expert", {}).get("return_mean")
    for score in scores.values():
        span = None if high is None or high <= low else high - low
        score["normalized"] = None if span is None else (score["return_mean"] - low) / span
