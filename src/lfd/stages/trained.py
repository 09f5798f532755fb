"""A trained policy on disk: weights, how to build the agent around them, and how it came to be."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from lfd.agents import Agent, AgentSpec
from lfd.envs import Spaces, VecEnv
from lfd.episodes import Policy, greedy
from lfd.errors import Refused, nearest
from lfd.experts import Expert
from lfd.files import load_object, load_tensors, save_json, save_tensors
from lfd.learner import Learner
from lfd.noise import Noise
from lfd.registry import AGENTS, LOSSES, from_json, to_json, with_plugins

WEIGHTS = "agent.safetensors"


@final
@dataclass
class Trained(Expert):
    """The product of a fit stage; read only."""

    folder: Path
    content: dict[str, Any]
    _loaded: dict[int | None, Agent] = field(default_factory=dict)  # first members that have acted, by snapshot

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, noise: Noise | None = None
    ) -> Policy:
        if snapshot not in self._loaded:
            self._loaded[snapshot] = self.agents(snapshot)[0].to(device)
        return greedy(self._loaded[snapshot], env.num_envs, device, noise)

    @property
    def spaces(self) -> Spaces:
        return Spaces.from_json(self.content["spaces"])

    @property
    def acts(self) -> bool:
        """Or does it only judge?"""
        kind: type[AgentSpec] = with_plugins("agent", AGENTS)[self.content["spec"]["name"]]
        return kind.acts

    @property
    def members(self) -> int:
        return int(self.content["members"])

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        """Earlier states of the agent, oldest first: {"file", "step", "score"}."""
        snapshots: list[dict[str, Any]] = self.content["snapshots"]
        return snapshots

    @property
    def history(self) -> list[dict[str, Any]]:
        """Evaluations during the training, oldest first: {"step", "env_steps", "score", …}."""
        history: list[dict[str, Any]] = self.content["history"]
        return history

    def agents(self, snapshot: int | None = None) -> list[Agent]:
        """The members, or their states at a snapshot. Raises Refused if there is no such snapshot."""
        file = WEIGHTS
        if snapshot is not None:
            if not 0 <= snapshot < len(self.snapshots):
                raise Refused(
                    f"snapshot {snapshot} was not kept: there are {len(self.snapshots)} (counted from 0); "
                    "set checkpoints of the fit stage, and check.every so that there are as many checks"
                )
            file = self.snapshots[snapshot]["file"]
        weights = load_tensors(self.folder / file)
        spec: AgentSpec = from_json(self.content["spec"], "agent", AGENTS)
        return [self._agent(spec, weights, index) for index in range(self.members)]

    def _agent(self, spec: AgentSpec, weights: dict[str, torch.Tensor], index: int) -> Agent:
        agent = spec.build(self.spaces)
        for loss in self.content["losses"]:
            agent.add(from_json(loss, "loss", LOSSES).modules(agent))
        if self.content["normalize_obs"]:
            agent.normalise_observations()
        wanted = agent.state_dict()
        agent.load_state_dict({name: weights[name] if self.members == 1 else weights[name][index] for name in wanted})
        agent.publish()
        return agent


def judge(product: Trained, what: str) -> Agent:
    """Who gives the reward of a product. Raises Refused, with `what` it is for, if it has members."""
    agents = product.agents()
    if len(agents) > 1:
        raise Refused(f"{what} has {len(agents)} members; a single reward is expected")
    return agents[0]


def save_agent(folder: Path, learner: Learner, name: str = WEIGHTS) -> None:
    """The learner's weights and buffers; with members every tensor has a leading axis."""
    save_tensors(folder / name, {**learner.parameters, **learner.buffers})


def save_trained(
    folder: Path, learner: Learner, history: list[dict[str, Any]], snapshots: list[dict[str, Any]]
) -> None:
    """Everything that `open_trained` needs."""
    save_agent(folder, learner)
    content = {
        "spec": to_json(learner.algo.agent, "agent", AGENTS),
        # Those that brought modules: a policy that goes on from here, or a reward, needs them again.
        "losses": [
            to_json(loss, "loss", LOSSES) for loss in learner.algo.losses.values() if loss.modules(learner.agent)
        ],
        "spaces": learner.agent.spaces.to_json(),
        "normalize_obs": learner.algo.normalize_obs,
        "members": learner.members,
        "history": history,
        "snapshots": snapshots,
    }
    save_json(folder / "agent.json", content)


def open_trained(folder: Path) -> Trained:
    """The policy in an artifact's folder. Raises Refused if its description is damaged."""
    fields = ("spec", "losses", "spaces", "normalize_obs", "members", "history", "snapshots")
    return Trained(folder, load_object(folder / "agent.json", *fields))


def trained_folder(path: Path, stage: str) -> Path:
    """The artifact of a run's stage, or the artifact itself. Raises Refused if `path` is neither."""
    if (path / "artifact.json").exists():
        return path
    if not (path / "result.json").exists():
        raise Refused(
            f"{path}: no result.json; a finished run's folder is expected, as in outputs/runs/cql-cartpole-s0-…"
        )
    stages = load_object(path / "result.json").get("stages", {})
    if stage not in stages:
        raise Refused(f"{path}: the run has no stage {stage!r}; {nearest(stage, stages)}")
    return path.parent.parent / "artifacts" / str(stages[stage]["artifact"])
