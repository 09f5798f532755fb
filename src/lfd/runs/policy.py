"""The policy of a finished run, with its environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from lfd.agents import Agent
from lfd.batch import tensors
from lfd.envs import Env, VecEnv
from lfd.envs.spaces import flatten_observation
from lfd.episodes import PolicyFunction, agent_policy, play
from lfd.errors import UserError, suggest
from lfd.experts.experts import Expert
from lfd.registry import name_of, parts
from lfd.report.film import save_film
from lfd.rng import GeneratorRng, reset_seeds
from lfd.stages.trained import read_trained, trained_folder, undamaged
from lfd.store.artifacts import read_record


@final
class Policy:
    """A trained policy: takes raw observations, gives actions of the environment, greedy or sampled."""

    def __init__(self, agent: Agent, env: Env | None) -> None:
        self.agent, self.env = agent, env
        self.reset()

    def reset(self, seed: int = 0) -> None:
        """Starts new episodes; `seed` determines sampled actions."""
        self._num_episodes, self._state = 1, self.agent.initial_state(1)
        self._rng = GeneratorRng(seed)

    def act(self, observation: Any, stochastic: bool = False) -> Any:
        """The action, an int or [A] float32, for one observation of the environment.

        Raises UserError if the observation is not in the observation space.
        """
        obs = _checked(observation, self.agent.spaces.observation)
        batch = {name: part[None] for name, part in obs.items()} if isinstance(obs, dict) else obs[None]
        action = self._act(batch, 1, stochastic)[0]
        return int(action) if action.ndim == 0 else action

    def act_batch(self, observations: Any, stochastic: bool = False) -> NDArray[Any]:
        """The actions, int64 [N] or float32 [N, A], for observations [N, ...] of N parallel episodes.

        A call with another N starts new episodes. Raises UserError if observations are not in the observation space.
        """
        obs = _checked(observations, self.agent.spaces.observation, batch=True)
        number = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        return self._act(obs, number, stochastic)

    def _act(self, obs: Any, number: int, stochastic: bool) -> NDArray[Any]:
        if number != self._num_episodes:
            self._num_episodes, self._state = number, self.agent.initial_state(number)
        rng = self._rng if stochastic else None
        action, self._state = self.agent.act(tensors(obs, torch.device("cpu")), self._state, rng)
        array: NDArray[Any] = action.numpy()
        return array

    def film(
        self, path: Path, episodes: int = 1, seed: int = 0, fps: float | None = None, expert: Expert | None = None
    ) -> float:
        """Plays greedy episodes and writes them to the GIF `path`, at `fps` frames per second; returns the mean return.

        Where the environment gives captions, they name the actions too, and those that `expert` would take. Without
        `fps` it is the environment's own.

        Raises UserError if the policy was trained without an environment.
        """
        if self.env is None:
            raise UserError("film: expected a policy with an environment, got one that was trained with env=none")
        env = self.env.make(1, training=False, render=True)
        frames: list[Any] = []
        captions: list[list[str]] = []

        def policy() -> PolicyFunction:
            return self._filmed(env, expert, frames, captions)

        try:
            episodes_played = play(env, policy, reset_seeds(episodes, seed, "film"))
        finally:
            env.close()
        save_film(frames, path, self.env.film_fps if fps is None else fps, captions)
        return float(np.mean([episode.episode_return for episode in episodes_played]))

    def _filmed(
        self, env: VecEnv, expert: Expert | None, frames: list[Any], captions: list[list[str]]
    ) -> PolicyFunction:
        """The policy of an episode; it adds a frame and a caption, if there is one, before each step."""
        assert self.env is not None
        described, cpu, has_caption = self.env, torch.device("cpu"), bool(self.env.caption(env.handles()[0].env))
        policy, names = agent_policy(self.agent, 1, cpu), described.action_names()
        experts = expert.policy(env, cpu) if expert is not None and has_caption else None

        def named(actor: str, action: NDArray[Any]) -> str:
            return f"{actor}: {names[int(action[0])] if names else action[0]}"

        def act(obs: Any) -> NDArray[Any]:
            action = policy(obs)
            frames.append(env.render()[0])
            if has_caption:
                actions = named("agent", action) + (f"   {named('expert', experts(obs))}" if experts else "")
                captions.append([described.caption(env.handles()[0].env), actions])
            return action

        return act


def _checked(observation: Any, space: gym.Space[Any], batch: bool = False) -> Any:
    """An observation, or a batch of them, as arrays of the space's dtype. Raises UserError."""
    if isinstance(space, gym.spaces.Dict):
        is_nested = isinstance(observation, Mapping | tuple)
        flat = flatten_observation(observation, space.spaces) if is_nested else {}
        if flat.keys() != space.spaces.keys():
            actual = list(flat) if is_nested else type(observation).__name__
            raise UserError(f"observation: expected a dict of {list(space.spaces)}, got {actual}")
        return {name: _checked(flat[name], part, batch) for name, part in space.items()}
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(observation, space.dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"observation: expected an array of numbers, got something else ({error})") from error
    shape = array.shape[1:] if batch and array.ndim else array.shape
    if shape != space.shape:
        expected = f"(N, {', '.join(map(str, space.shape or ()))})" if batch else space.shape
        raise UserError(f"observation: expected shape {expected}, got {array.shape}; the space is {space}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError("observation: expected finite numbers, got NaN or infinity")
    return array


def load(run: str | Path, stage: str = "learn", member: int = 0) -> Policy:
    """Loads the policy that a stage of a run trained; `run` is a run folder or the folder of a fit artifact.

    `member` is its index among policies trained at once. Raises UserError if there is no such policy.
    """
    with undamaged(Path(run)):
        folder = trained_folder(Path(run).expanduser(), stage)
        record = read_record(folder)
        if record is None:
            raise UserError(
                f"{folder.name}: expected a stored policy, got none; repeat the run's command to train it again"
            )
        if record["kind"] != "fit":
            raise UserError(
                f"{stage}: expected a stage that trains a policy, got {record['kind']}; name another, as learn"
            )
        trained = read_trained(folder, Path(run))
        if not 0 <= member < trained.members:
            raise UserError(
                f"member: expected 0 to {trained.members - 1}, got {member}; the stage trained {trained.members}"
            )
        return Policy(trained.agents()[member], _env_of(record["material"]))


def _env_of(material: Mapping[str, Any]) -> Env | None:
    """The environment that is described in the content of an artifact's key; None if there is none."""
    if "env" not in material:
        return None
    described = {**material["env"]}
    for name in ("versions", "fire"):
        described.pop(name, None)
    part = described.pop("part")
    known = {name_of(kind): kind for kind in parts("env").values()}
    if part not in known:
        raise UserError(f"{part}: expected an installed environment class; {suggest(part, map(str, known))}")
    env: Env = known[part](**described)
    return env
