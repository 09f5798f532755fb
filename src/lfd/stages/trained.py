"""A trained policy on disk: weights, how to build the agent around them, and how it came to be."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from lfd.agents import Agent, AgentSpec, sketched
from lfd.artifacts import is_earlier
from lfd.envs import Spaces, VecEnv
from lfd.episodes import Policy, greedy
from lfd.errors import Refused, nearest
from lfd.experts import Expert
from lfd.files import file_sha256, load_object, load_tensors, save_json, save_tensors
from lfd.learner import Learner
from lfd.noise import Noise
from lfd.registry import from_json, parts, to_json

WEIGHTS = "agent.safetensors"
LARGEST = 10**8  # numbers in an observation


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
        kind: type[AgentSpec] = parts("agent")[self.content["spec"]["name"]]
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
        with undamaged(self.folder):
            weights = load_tensors(self.folder / file)
            self._check_shapes(file, weights)
            return [self._agent(weights, index) for index in range(self.members)]

    def _agent(self, weights: dict[str, torch.Tensor], index: int) -> Agent:
        agent = self._blank()
        wanted = agent.state_dict()
        agent.load_state_dict({name: weights[name] if self.members == 1 else weights[name][index] for name in wanted})
        agent.publish()
        return agent

    def _blank(self) -> Agent:
        spec: AgentSpec = from_json(self.content["spec"], "agent")
        agent = spec.build(self.spaces)
        for loss in self.content["losses"]:
            agent.add(from_json(loss, "loss").modules(agent))
        if self.content["normalize_obs"]:
            agent.normalise_observations()
        return agent

    def _check_shapes(self, file: str, weights: dict[str, torch.Tensor]) -> None:
        """Before anything is built as large as a description says: it may say what it likes."""
        lead = (self.members,) if self.members > 1 else ()
        for name, wanted in sketched(self._blank).state_dict().items():
            there = tuple(weights[name].shape) if name in weights else None
            if there != (*lead, *wanted.shape):
                raise Refused(f"{file} has {name} of the shape {there}, its agent.json needs {(*lead, *wanted.shape)}")

    def check(self) -> None:
        """Read everything there is. Raises Refused, or whatever comes of a damaged description."""
        marker = self.folder / "artifact.json"
        stored = load_object(marker).get("sha256", {}) if marker.exists() else {}
        for name in (WEIGHTS, *(one["file"] for one in self.snapshots)):
            if name in stored and file_sha256(self.folder / name, None) != stored[name]:
                raise Refused(f"{name} is damaged: its sha256 is not that of what was stored")
        shapes = re.findall(r'"box": \[([^\]]*)\]', json.dumps(self.content["spaces"]))
        if any(math.prod(map(int, shape.split(","))) > LARGEST for shape in shapes if shape):
            raise Refused(f"agent.json has a space of more than {LARGEST:,} numbers")
        for snapshot in (None, *range(len(self.snapshots))):
            for agent in self.agents(snapshot):
                for name, value in agent.state_dict().items():
                    if not torch.isfinite(value).all():
                        raise Refused(f"{name} is not finite")


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Turns whatever comes of reading what somebody may have changed into Refused, which names `path`."""
    try:
        yield
    except Refused as refusal:
        told = str(refusal)
        raise Refused(told if told.startswith(str(path)) else f"{path}: {told}") from refusal
    except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, MemoryError, RecursionError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        told = " ".join(str(error).split())[:200]
        raise Refused(
            f"{path}: the policy there is damaged ({type(error).__name__}: {told}); take another copy of it, or repeat "
            "its command"
        ) from error


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
        "spec": to_json(learner.algo.agent, "agent"),
        # Those that brought modules: a policy that goes on from here, or a reward, needs them again.
        "losses": [to_json(loss, "loss") for loss in learner.algo.losses.values() if loss.modules(learner.agent)],
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


def read_trained(folder: Path, path: Path) -> Trained:
    """The policy in an artifact's folder, read whole. Raises Refused, naming `path`, by which the user knows it."""
    with undamaged(path):
        trained = open_trained(folder)
        trained.check()
        return trained


def trained_folder(path: Path, stage: str) -> Path:
    """The artifact of a run's stage, or the artifact itself. Raises Refused if `path` is neither."""
    if (path / "artifact.json").exists():
        return _of_this_version(path)
    if not (path / "result.json").exists():
        raise Refused(
            f"{path}: no result.json; a finished run's folder is expected, as in outputs/runs/cql-cartpole-s0-…"
        )
    stages = load_object(path / "result.json").get("stages", {})
    if stage not in stages:
        raise Refused(f"{path}: the run has no stage {stage!r}; {nearest(stage, stages)}")
    key = stages[stage]["artifact"]
    if not isinstance(key, str) or Path(key).name != key:
        raise Refused(f"{path}: its result.json names {str(key)[:80]!r} as the artifact of {stage!r}, which is no key")
    return _of_this_version(path.absolute().parent.parent / "artifacts" / key)


def _of_this_version(folder: Path) -> Path:
    if is_earlier(folder):
        raise Refused(
            f"{folder.name} was stored by an earlier version of lfd: expected one of this version; repeat the command "
            "that made it"
        )
    return folder
