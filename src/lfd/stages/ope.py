"""ope: off-policy evaluation, the score of a policy from data alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.algos.fqe import EVALUATED, policy_action
from lfd.batch import tensors
from lfd.data import Dataset
from lfd.errors import UserError
from lfd.files import load_json, save_json
from lfd.stages import CheckContext, Estimate, EstimateContext, Product, StageContext, Summary
from lfd.stages.fit.config import FitConfig
from lfd.stages.fit.costs import FitCosts
from lfd.stages.fit.loop import TrainLoop
from lfd.stages.fit.wiring import Wiring

ROWS = 1_000  # start states in a batch


@final
@dataclass
class OffPolicyEvaluation(FitConfig):
    """Trains critics of the policy `frozen.policy` and estimates its return from the start states of the data.

    The estimate is the discounted return, with the algorithm's gamma, of an episode without a time limit. It is the
    mean over members, which differ in their initial weights and in the order of the data; low and high are two standard
    deviations of the members away. This interval does not cover errors on states that the data does not have.
    """

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.scores})

    def check(self, context: CheckContext) -> None:
        name = context.name
        if EVALUATED not in self.frozen:
            raise UserError(
                f"{name}.frozen.{EVALUATED}: expected a value, got none; set a policy, as in "
                f"+{name}.frozen.{EVALUATED}=learn"
            )
        wiring = Wiring(self, context)
        wiring.check()
        # Rewards of further steps are those of the policy that collected the data.
        for row, loss in self.algo.losses.items():
            for source, _ in loss.slots.values():
                wiring.check_single_steps(f"{name}: losses.{row}", source)

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        return FitCosts(name, self, context).estimate()

    def run(self, context: StageContext) -> Summary:
        with TrainLoop(self, context) as training:
            summary = training.run()
            scores = self._scores(context, training.learner.agents)
        save_json(context.folder / "scores.json", scores)
        return summary

    def _scores(self, context: StageContext, critics: Sequence[Agent]) -> dict[str, Any]:
        names = dict.fromkeys(name for key, source in self.read_sources().items() for name in source.products(key))
        data: dict[str, Dataset] = {name: context.products[name] for name in names}
        members = [
            torch.cat([start_values(critic, dataset) for dataset in data.values()]).mean().item() for critic in critics
        ]
        mean, deviation = float(np.mean(members)), float(np.std(members, ddof=1)) if len(members) > 1 else None
        estimate = {
            "fqe_mean": mean,
            "fqe_low": None if deviation is None else mean - 2 * deviation,
            "fqe_high": None if deviation is None else mean + 2 * deviation,
            "fqe_members": members,
            "start_states": sum(len(dataset.starts) for dataset in data.values()),
            "gamma": self.algo.gamma,
        }
        sign = context.env is not None and context.env.sign_reward
        of_data = {
            name: dataset.evaluate() | discounted(dataset, self.algo.gamma, sign) for name, dataset in data.items()
        }
        return {self.frozen[EVALUATED]: estimate, **of_data}

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        scores: dict[str, Any] = load_json(folder / "scores.json")
        return scores


@torch.no_grad()
def start_values(critic: Agent, data: Dataset) -> Tensor:
    """The critic's values [E] of the first states of the episodes, at actions of the policy."""
    device = next(critic.parameters()).device
    values = []
    for first in range(0, len(data.starts), ROWS):
        obs = critic.normalize_obs(tensors(data.observations(data.starts[first : first + ROWS]), device))
        values.append(critic.q(obs, policy_action(critic, obs)).mean(-1).double().cpu())
    return torch.cat(values)


def discounted(data: Dataset, gamma: float, sign: bool) -> dict[str, float]:
    """The mean discounted return of the complete episodes (of all if none is complete); `sign` takes rewards' signs."""
    rewards = np.asarray(data.columns["rewards"], np.float64)
    rewards = np.sign(rewards) if sign else rewards
    step = np.arange(len(data)) - data.starts[data.episode_of(np.arange(len(data)))]
    returns = np.add.reduceat(rewards * gamma**step, data.starts)
    return {"discounted_mean": float(returns[data.complete_episodes()].mean()), "gamma": gamma}
