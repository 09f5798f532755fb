"""appraise: score a policy from data alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from lfd.agents import Agent
from lfd.agents.critic import POLICY, Critic
from lfd.batch import tensors
from lfd.data import Dataset
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.files import load_json, save_json
from lfd.stages import Lab, Product, Summary
from lfd.stages.collect import split_name
from lfd.stages.evaluate import of_data
from lfd.stages.recipe import Recipe
from lfd.stages.training import Training
from lfd.stages.wiring import Wiring

ROWS = 1_000  # start states at once


@final
@dataclass
class Appraise(Recipe):
    """Fits critics of the policy that is frozen as `policy`, and asks them what the start states of the data are worth.

    The answer is a discounted return, by the gamma of its algorithm, of an episode that no time limit ends. It is the
    mean over members, which differ in their first weights and in the order of the data; low and high are two standard
    deviations of the members away. They do not know of what the data does not show.
    """

    gives: ClassVar[Product] = Product.scores

    def check_wiring(self, name: str, spaces: Spaces, datasets: list[str]) -> None:
        if POLICY not in self.frozen:
            raise Refused(f"{name}: whom to score is missing; add +{name}.frozen.{POLICY}=learn")
        wiring = Wiring(self)
        wiring.check(name, spaces, datasets)
        # The rewards of further steps would be those of the behaviour.
        for row, loss in self.algo.losses.items():
            for source, _ in loss.slots.values():
                wiring.check_single_steps(f"{name}: losses.{row}", source)

    def offers(self, product: Product) -> bool:
        return product is Product.scores

    def run(self, lab: Lab) -> Summary:
        name = self.frozen[POLICY]
        if lab.products[split_name(name)[0]].agents()[0].recurrent:
            raise Refused(f"{lab.name}: {name} acts by its memory, which single transitions do not show; play it")
        with Training(self, lab) as training:
            summary = training.run()
            scores = self._scores(lab, training.learner.agents)
        save_json(lab.folder / "scores.json", scores)
        return summary

    def _scores(self, lab: Lab, critics: Sequence[Agent]) -> dict[str, Any]:
        names = dict.fromkeys(name for key, source in self.read().items() for name in source.products(key))
        data: dict[str, Dataset] = {name: lab.products[name] for name in names}
        members = [torch.cat([start_values(critic, one) for one in data.values()]).mean().item() for critic in critics]
        mean, deviation = float(np.mean(members)), float(np.std(members, ddof=1)) if len(members) > 1 else None
        appraised = {
            "fqe_mean": mean,
            "fqe_low": None if deviation is None else mean - 2 * deviation,
            "fqe_high": None if deviation is None else mean + 2 * deviation,
            "fqe_members": members,
            "start_states": sum(len(one.starts) for one in data.values()),
            "gamma": self.algo.gamma,
        }
        sign = lab.env is not None and lab.env.sign_reward
        beside = {name: of_data(one) | discounted(one, self.algo.gamma, sign) for name, one in data.items()}
        return {self.frozen[POLICY]: appraised, **beside}

    @staticmethod
    def open(folder: Path) -> dict[str, Any]:
        scores: dict[str, Any] = load_json(folder / "scores.json")
        return scores


@torch.no_grad()
def start_values(critic: Agent, data: Dataset) -> Tensor:
    """What a critic thinks that each episode's first state is worth [E], where the policy chooses the action."""
    assert isinstance(critic, Critic)
    device = next(critic.parameters()).device
    found = []
    for first in range(0, len(data.starts), ROWS):
        obs = critic.observe(tensors(data.observations(data.starts[first : first + ROWS]), device))
        found.append(critic.value(obs, critic.chosen(obs)).double().cpu())
    return torch.cat(found)


def discounted(data: Dataset, gamma: float, sign: bool) -> dict[str, float]:
    """The mean discounted return of the data's whole episodes (of all, if each was cut), as far as they went."""
    rewards = np.asarray(data.columns["rewards"], np.float64)
    rewards = np.sign(rewards) if sign else rewards
    since = np.arange(len(data)) - data.starts[data.episode_of(np.arange(len(data)))]
    returns = np.add.reduceat(rewards * gamma**since, data.starts)
    return {"discounted_mean": float(returns[data.whole()].mean()), "gamma": gamma}
