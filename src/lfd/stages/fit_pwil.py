"""fit_pwil: PWIL's reward model of demonstrations, in one pass and without gradients."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch

from lfd.agents import REWARD, Agent
from lfd.agents.config import AgentConfig
from lfd.agents.pwil import PWIL, PWILReward
from lfd.algos import MISSING
from lfd.data import Dataset
from lfd.envs import Spaces
from lfd.errors import UserError
from lfd.log.progress import TimeEstimate, print_message
from lfd.nets import has_frames
from lfd.rng import derive
from lfd.sources.rewards import transitions_of
from lfd.stages import CheckContext, Estimate, EstimateContext, Product, Stage, StageContext, Summary
from lfd.stages.fit.reward_bias import one_sided_rewards
from lfd.stages.trained import Trained, open_trained, save_reward


@final
@dataclass
class FitPWIL(Stage):
    """Samples `atoms` different transitions of a dataset and stores them as the reward model `agent.nets.reward`."""

    unit: ClassVar[str] = "atoms"

    agent: AgentConfig = MISSING  # type: ignore[assignment] # an agent with the net "reward" alone
    dataset: str = MISSING  # stage with the demonstrations
    seed: int = 0  # of the sampled transitions

    @property
    def _pwil(self) -> PWIL:
        net = self.agent.nets[REWARD]
        assert isinstance(net, PWIL)
        return net

    def provides(self) -> frozenset[Product]:
        return frozenset({Product.reward})

    def inputs(self) -> dict[str, Product]:
        return {self.dataset: Product.dataset}

    def length(self) -> int | None:
        net = self.agent.nets.get(REWARD)
        return net.atoms if isinstance(net, PWIL) else None

    def check(self, context: CheckContext) -> None:
        if not isinstance(net := self.agent.nets.get(REWARD), PWIL):
            raise UserError(
                f"{context.name}.agent.nets.{REWARD}: expected the net pwil, got {type(net).__name__}; choose algo=pwil"
            )
        if has_frames(context.spaces.observation):
            raise UserError(
                f"{context.name}: PWIL needs vector observations, got frames, where distances say little; choose gail"
            )
        rows = context.stages[self.dataset].row_count()
        if rows is not None:
            self._check_atoms(context.name, rows)

    def check_snapshot(self, what: str, index: int) -> None:
        raise UserError(f"{what}: fit_pwil has no snapshots; leave @{index} out")

    def untrained_agent(self, spaces: Spaces) -> Agent:
        return self.agent.build(spaces)

    def estimate(self, name: str, context: EstimateContext) -> Estimate:
        return Estimate(TimeEstimate(0.0, 1.0), 0, 10_000)

    def _check_atoms(self, name: str, rows: int) -> None:
        if rows < self._pwil.atoms:
            raise UserError(
                f"{name}.agent.nets.{REWARD}.atoms: expected at most the {rows} transitions of {self.dataset!r}, got "
                f"{self._pwil.atoms}; collect more, or set fewer atoms"
            )

    def run(self, context: StageContext) -> Summary:
        began, device = time.monotonic(), context.hardware.torch_device()
        data: Dataset = context.products[self.dataset]
        self._check_atoms(context.name, len(data))
        for line in one_sided_rewards(context.name, {"pwil": "never negative"}, [self.dataset], context.products):
            print_message(line)
        generator = torch.Generator(device=device).manual_seed(derive(derive(self.seed, "source", 0), "draws"))
        order = torch.rand((1, len(data)), generator=generator, device=device).argsort()[0]
        rows = order[: self._pwil.atoms].cpu().numpy()
        agent = self.agent.build(context.spaces).to(device)
        reward = agent.nets[REWARD]
        assert isinstance(reward, PWILReward)
        longest = int((data.ends - data.starts)[data.episode_of(rows)].max())
        reward.set_atoms(agent.preprocess(transitions_of(data, rows, 1.0, device)), longest)
        context.progress.update(self._pwil.atoms)
        save_reward(context.folder, self.agent, agent)
        return Summary(seconds=time.monotonic() - began)

    @staticmethod
    def open(folder: Path) -> Trained:
        return open_trained(folder)
