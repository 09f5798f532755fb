"""evaluate: score policies on episodes from common start states."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from lfd.episodes import Evaluation, PlayedEpisode, PolicyFunction, play
from lfd.errors import UserError
from lfd.experts.experts import make_eval_envs
from lfd.files import load_json_object, save_json
from lfd.log.progress import TimeEstimate
from lfd.nets import has_frames
from lfd.rng import GeneratorRng, derive, reset_seeds
from lfd.stages import CheckContext, Estimate, EstimateContext, Product, Stage, StageContext, Summary, positive
from lfd.stages.player import random_policy
from lfd.stages.policies import check_policies, split_name


@dataclass
class Evaluate(Stage):
    """Plays episodes of policies from the same start states and scores the policies by their returns."""

    unit: ClassVar[str] = "episodes"

    policies: list[str] = field(default_factory=list)  # stages, "<stage>@<k>" for a snapshot, or "random"
    # Stages that are scored too if the run has them for another reason.
    include_if_present: list[str] = field(default_factory=lambda: ["expert", "demos"])
    episodes: int = 30  # of each policy, from the same start states for all
    seed: int = 0  # of the start states, which are the same in all runs
    # Sample actions of stochastic policies; false takes the mode.
    stochastic: bool = field(default=False, metadata={"key": "set"})
    num_envs: int | None = field(default=None, metadata={"key": "set"})  # episodes in parallel; null: all, at most 16

    def __post_init__(self) -> None:
        positive(self, episodes=self.episodes, num_envs=self.num_envs)
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise UserError(f"policies: expected different policies, as in [learn], got {list(self.policies)}")

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.scores})

    def inputs(self) -> dict[str, Product]:
        return {split_name(name)[0]: Product.actor for name in self.policies if name != "random"}

    def check(self, context: CheckContext) -> None:
        check_policies(context, self.policies, self.stochastic)

    def optional_inputs(self) -> tuple[str, ...]:
        return tuple(self.include_if_present)

    def interacts(self) -> bool:
        return True

    def amount(self) -> str:
        return f"{self.episodes:,} episodes a policy"

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        names = [split_name(name)[0] for name in self.policies]
        names += [name for name in self.include_if_present if name in context.order and name not in names]
        played = ["random", *(name for name in names if context.agent(name) is not None)]
        steps = self.episodes * context.episode
        return Estimate(TimeEstimate.sum(context.seconds_per_transition(name) for name in played) * steps, disk=10_000)

    def shortened(self, name: str) -> list[str]:
        return [f"set fewer {name}.episodes"]

    def run(self, context: StageContext) -> Summary:
        assert context.env is not None
        context.hardware.set_up_torch(has_frames(context.spaces.observation))
        device = context.hardware.torch_device()
        products = [context.products[split_name(name)[0]] for name in self.policies if name != "random"]
        env = make_eval_envs(context.env, products, self.num_envs or min(self.episodes, 16))
        seeds = reset_seeds(self.episodes, self.seed, "start")
        scores: dict[str, dict[str, Any]] = {}
        env_steps, began = 0, time.monotonic()

        def play_all(name: str, policy: Callable[[], PolicyFunction]) -> list[PlayedEpisode]:
            nonlocal env_steps

            def report(finished: int) -> None:
                context.progress.set_activity(f"playing {name}", finished, len(seeds), "episodes")

            report(0)
            played = play(env, policy, seeds, stopping=context.stopping, ended=report)
            context.progress.set_activity("")
            env_steps += sum(result.length for result in played)
            context.progress.update(len(seeds) * (len(scores) + 1))
            return played

        def action_rng(name: str, member: int) -> GeneratorRng | None:
            """Random numbers for sampled actions; None takes the mode."""
            return GeneratorRng(derive(self.seed, "draws", name, member), device) if self.stochastic else None

        def evaluation(name: str, required: bool = True) -> Evaluation:
            return Evaluation(env, device, partial(action_rng, name), partial(play_all, name), required)

        try:
            rng = GeneratorRng(derive(self.seed, "random"))
            uniform = partial(random_policy, context.spaces, env.num_envs, rng)
            scores["random"] = evaluation("random").scores([uniform])
            for name in dict.fromkeys([*self.policies, *self.include_if_present]):
                base, snapshot = split_name(name)
                # `include_if_present` may name a stage that this run does not have, or whose product has no scores.
                evaluate = getattr(context.products.get(base), "evaluate", lambda *_: None)
                result = evaluate(evaluation(name, required=name in self.policies), snapshot)
                if result is not None:
                    scores[name] = result
        finally:
            env.close()
        normalize(scores)
        save_json(context.folder / "scores.json", scores)
        return Summary(env_steps=env_steps, seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        return load_json_object(folder / "scores.json", "random")


def normalize(scores: dict[str, dict[str, Any]]) -> None:
    """Adds `normalized`: 0 is the random policy, 1 the expert; None without an expert that is better than random."""
    low, high = scores["random"]["return_mean"], scores.get("expert", {}).get("return_mean")
    for score in scores.values():
        span = None if high is None or high <= low else high - low
        score["normalized"] = None if span is None else (score["return_mean"] - low) / span
