"""Trained agents on disk: weights, the description of the agent, and the history of its training."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from lfd.agents import Agent
from lfd.agents.config import AgentConfig, build_on_meta
from lfd.envs import Spaces, VecEnv
from lfd.episodes import Evaluation, PolicyFunction, RunningPolicy, agent_policy
from lfd.errors import UserError, suggest
from lfd.experts.experts import Expert
from lfd.files import file_sha256, load_json_object, load_tensors, save_json, save_tensors
from lfd.learner.learner import Learner
from lfd.registry import from_json, to_json
from lfd.rng import Rng
from lfd.store.artifacts import is_outdated
from lfd.store.outputs import Outputs

WEIGHTS = "agent.safetensors"
MAX_SPACE_SIZE = 10**8  # numbers in an element of a space


@final
@dataclass
class Trained(Expert):
    """The product of a training stage: a policy, a reward model, or both; read only."""

    folder: Path
    content: dict[str, Any]
    _loaded: dict[int | None, Agent] = field(default_factory=dict)  # first members that acted, by snapshot

    def policy(
        self, env: VecEnv, device: torch.device, snapshot: int | None = None, rng: Rng | None = None
    ) -> PolicyFunction:
        return agent_policy(self._first(snapshot, device), env.num_envs, device, rng)

    def running_policy(self, env: VecEnv, device: torch.device) -> RunningPolicy:
        return agent_policy(self._first(None, device), env.num_envs, device)

    def _first(self, snapshot: int | None, device: torch.device) -> Agent:
        if snapshot not in self._loaded:
            self._loaded[snapshot] = self.agents(snapshot)[0].to(device)
        return self._loaded[snapshot]

    def evaluate(self, evaluation: Evaluation, snapshot: int | None = None) -> dict[str, Any]:
        """Scores over the episodes of all members."""
        count, device = evaluation.env.num_envs, evaluation.device
        agents = [agent.to(device) for agent in self.agents(snapshot)]
        return evaluation.scores(
            [partial(agent_policy, agent, count, device, evaluation.rng(member)) for member, agent in enumerate(agents)]
        )

    @property
    def spaces(self) -> Spaces:
        return Spaces.from_json(self.content["spaces"])

    @property
    def acts(self) -> bool:
        """True if it is a policy, False if it is only a reward model."""
        return self._config.acts

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
        """Evaluations during training, oldest first: {"step", "env_steps", "score", …}."""
        history: list[dict[str, Any]] = self.content["history"]
        return history

    def agents(self, snapshot: int | None = None) -> list[Agent]:
        """The members, or their states at a snapshot, counted from 0. Raises UserError if it does not exist."""
        file = WEIGHTS
        if snapshot is not None:
            if not 0 <= snapshot < len(self.snapshots):
                raise UserError(
                    f"snapshot {snapshot}: expected a number below {len(self.snapshots)}, the number of snapshots; set "
                    "more snapshots of the training stage, with eval.every for as many evaluations"
                )
            file = self.snapshots[snapshot]["file"]
        with undamaged(self.folder):
            weights = load_tensors(self.folder / file)
            self._check_shapes(file, weights)
            return [self._agent(weights, index) for index in range(self.members)]

    def _agent(self, weights: dict[str, torch.Tensor], index: int) -> Agent:
        agent = self._blank()
        names = agent.state_dict()
        agent.load_state_dict({name: weights[name] if self.members == 1 else weights[name][index] for name in names})
        agent.publish()
        return agent

    @property
    def _config(self) -> AgentConfig:
        config: AgentConfig = from_json(self.content["agent"], AgentConfig)
        return config

    def _blank(self) -> Agent:
        agent = self._config.build(self.spaces)
        if self.content["normalize_obs"]:
            agent.normalize_observations()
        return agent

    def _check_shapes(self, file: str, weights: dict[str, torch.Tensor]) -> None:
        """Raises UserError unless the weights have the shapes of the description; allocates no memory for these."""
        lead = (self.members,) if self.members > 1 else ()
        for name, value in build_on_meta(self._blank).state_dict().items():
            expected, got = (*lead, *value.shape), tuple(weights[name].shape) if name in weights else None
            if got != expected:
                raise UserError(f"{file}: expected {name} of the shape {expected} by its agent.json, got {got}")

    def check(self) -> None:
        """Reads all files. Raises UserError, or any error of reading a damaged description; see `undamaged`."""
        marker = self.folder / "artifact.json"
        stored = load_json_object(marker).get("sha256", {}) if marker.exists() else {}
        for name in (WEIGHTS, *(snapshot["file"] for snapshot in self.snapshots)):
            if name in stored and file_sha256(self.folder / name, None) != stored[name]:
                raise UserError(f"{name} is damaged: its sha256 differs from the stored one")
        shapes = re.findall(r'"box": \[([^\]]*)\]', json.dumps(self.content["spaces"]))
        if any(math.prod(map(int, shape.split(","))) > MAX_SPACE_SIZE for shape in shapes if shape):
            raise UserError(f"agent.json: expected spaces of at most {MAX_SPACE_SIZE:,} numbers, got a larger one")
        for snapshot in (None, *range(len(self.snapshots))):
            for agent in self.agents(snapshot):
                for name, value in agent.state_dict().items():
                    if not torch.isfinite(value).all():
                        raise UserError(f"{name}: expected finite weights, got NaN or infinity")


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Turns errors of reading a damaged policy into UserError with `path`."""
    try:
        yield
    except UserError as refusal:
        message = str(refusal)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from refusal
    except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, MemoryError, RecursionError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        message = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the policy is damaged ({type(error).__name__}: {message}); use another copy of it, or repeat its "
            "command"
        ) from error


def single_agent(product: Trained, what: str) -> Agent:
    """The only member of a product. Raises UserError, which begins with `what`, if it has several."""
    agents = product.agents()
    if len(agents) > 1:
        raise UserError(f"{what}: expected a single reward model, got {len(agents)} members")
    return agents[0]


def save_agent(folder: Path, learner: Learner, name: str = WEIGHTS) -> None:
    """Saves the learner's weights and buffers; with several members every tensor has a leading axis [members]."""
    save_tensors(folder / name, {**learner.parameters, **learner.buffers})


def save_trained(
    folder: Path, learner: Learner, history: list[dict[str, Any]], snapshots: list[dict[str, Any]]
) -> None:
    """Saves everything that `open_trained` reads."""
    save_agent(folder, learner)
    content = {
        "agent": to_json(learner.algo.agent_config(learner.agent.spaces)),
        "spaces": learner.agent.spaces.to_json(),
        "normalize_obs": learner.algo.normalize_obs,
        "members": learner.members,
        "history": history,
        "snapshots": snapshots,
    }
    save_json(folder / "agent.json", content)


def save_reward(folder: Path, config: AgentConfig, agent: Agent) -> None:
    """Saves a reward model that was made without a learner, for `open_trained`."""
    save_tensors(folder / WEIGHTS, agent.state_dict())
    content = {"agent": to_json(config), "spaces": agent.spaces.to_json()}
    rest = {"normalize_obs": False, "members": 1, "history": [], "snapshots": []}
    save_json(folder / "agent.json", content | rest)


def open_trained(folder: Path) -> Trained:
    """Opens the agent in an artifact's folder. Raises UserError if its description is damaged."""
    fields = ("agent", "spaces", "normalize_obs", "members", "history", "snapshots")
    return Trained(folder, load_json_object(folder / "agent.json", *fields))


def read_trained(folder: Path, path: Path) -> Trained:
    """Opens and checks the agent in an artifact's folder. Raises UserError, which begins with `path`."""
    with undamaged(path):
        trained = open_trained(folder)
        trained.check()
        return trained


def trained_folder(path: Path, stage: str) -> Path:
    """The folder of the artifact of a run's stage; `path` is a run's or an artifact's folder, else UserError."""
    if (path / "artifact.json").exists():
        return _of_this_version(path)
    if not (path / "result.json").exists():
        raise UserError(
            f"{path}: expected the folder of a finished run, as in outputs/runs/cql-cartpole-s0-…, got a folder with "
            "no result.json; check the path"
        )
    stages = load_json_object(path / "result.json").get("stages", {})
    if stage not in stages:
        raise UserError(f"{path}: the run has no stage {stage!r}; {suggest(stage, stages)}")
    key = stages[stage]["artifact"]
    if not isinstance(key, str) or Path(key).name != key:
        raise UserError(
            f"{path}: expected the key of an artifact of {stage!r} in result.json, got {str(key)[:80]!r}; repeat its "
            "command"
        )
    return _of_this_version(Outputs(path.absolute().parent.parent).artifacts / key)


def _of_this_version(folder: Path) -> Path:
    if is_outdated(folder):
        raise UserError(
            f"{folder.name} was stored by an earlier version of lfd: expected one of this version; repeat the command "
            "that made it"
        )
    return folder
