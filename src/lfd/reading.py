"""Reading a run back: its policy in the environment that it is from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
import torch

from lfd.agents import Agent
from lfd.artifacts import record_of
from lfd.batch import tensors
from lfd.envs import Env
from lfd.episodes import greedy, play
from lfd.errors import Refused, nearest
from lfd.noise import derive
from lfd.registry import name_of, parts
from lfd.report.film import save_film
from lfd.stages.trained import read_trained, trained_folder, undamaged


@final
class Policy:
    """A trained agent at its best: raw observations in, actions of the environment out."""

    def __init__(self, agent: Agent, env: Env | None) -> None:
        self.agent, self.env = agent, env
        self._state = agent.initial_state(1)

    def reset(self) -> None:
        """A new episode begins."""
        self._state = self.agent.initial_state(1)

    def act(self, observation: Any) -> Any:
        """The action, an int or [A] float32, for one observation as the environment gives it.

        Raises Refused for what is no such observation.
        """
        seen = _checked(observation, self.agent.spaces.observation)
        batch = {name: part[None] for name, part in seen.items()} if isinstance(seen, dict) else seen[None]
        action, self._state = self.agent.act(tensors(batch, torch.device("cpu")), self._state, None)
        taken = action[0].numpy()
        return int(taken) if taken.ndim == 0 else taken

    def film(self, path: Path, episodes: int = 1, seed: int = 0, fps: float = 30) -> float:
        """Play and write the pictures to `path`, a GIF; returns the mean return.

        Raises Refused if it was learnt without an environment.
        """
        if self.env is None:
            raise Refused("the policy was learnt with env=none: there is no environment to film it in")
        env = self.env.make(1, training=False, render=True)
        frames: list[Any] = []
        try:
            seeds = [derive(seed, "film", index) % 2**31 for index in range(episodes)]
            policy = greedy(self.agent, 1, torch.device("cpu"))
            played = play(env, lambda: policy, seeds, watch=lambda watched: frames.append(watched.render()[0]))
        finally:
            env.close()
        save_film(frames, path, fps)
        return float(np.mean([one.value for one in played]))


def _checked(observation: Any, space: gym.Space[Any]) -> Any:
    """One observation as arrays."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(observation, Mapping) or observation.keys() != space.spaces.keys():
            raise Refused(f"the observation is no dict of {', '.join(space.spaces)}, which the policy was trained on")
        return {name: _checked(observation[name], part) for name, part in space.items()}
    try:
        with np.errstate(over="ignore"):
            seen = np.asarray(observation, space.dtype)
    except (TypeError, ValueError) as error:
        raise Refused(f"the observation is no array of numbers ({error})") from error
    if seen.shape != space.shape or (seen.dtype.kind == "f" and not np.isfinite(seen).all()):
        raise Refused(f"the observation has the shape {seen.shape} or is no finite number; {space} is expected")
    return seen


def load(run: str | Path, stage: str = "learn", member: int = 0) -> Policy:
    """The policy of a run folder (of the stage of that name) or of a fit artifact's folder.

    Raises Refused if there is none.
    """
    with undamaged(Path(run)):
        folder = trained_folder(Path(run).expanduser(), stage)
        record = record_of(folder)
        if record is None or record["kind"] != "fit":
            raise Refused(f"{folder.name} is no stored policy; repeat the run's command to make it again")
        trained = read_trained(folder, Path(run))
        if not 0 <= member < trained.members:
            raise Refused(f"member {member}: the policy has {trained.members}, counted from 0")
        return Policy(trained.agents()[member], _env_of(record["material"]))


def _env_of(material: Mapping[str, Any]) -> Env | None:
    """The environment that stands in what a key was made of."""
    if "env" not in material:
        return None
    described = {**material["env"]}
    for name in ("versions", "fire"):
        described.pop(name, None)
    part = described.pop("part")
    known = {name_of(kind): kind for kind in parts("env").values()}
    if part not in known:
        raise Refused(f"{part} is not installed; {nearest(part, map(str, known))}")
    env: Env = known[part](**described)
    return env
