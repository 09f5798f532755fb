"""Rewards of batches: the environment's, a constant, or a reward model's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfd.agents import REWARD, Agent
from lfd.batch import Batch, tensors
from lfd.data import Dataset
from lfd.envs.spaces import Array
from lfd.envs.vec_env import Step
from lfd.sources import SourceContext
from lfd.sources.recurrent_reward import RecurrentRewardModel

MAX_EPISODES = 64  # episodes in a batch for a recurrent reward model
MAX_ROWS = 8192  # rows in a batch for a reward model, as a whole collection of frames would exceed memory
MAX_SCALED_REWARD = 10.0  # absolute value at which scaled rewards are clipped


@final
class RewardSelector:
    """Selects the rewards of an open source.

    A reward model, in training or frozen, has priority over a constant, and both over the environment's reward. A
    recurrent model's reward is computed once a step, in episode order, and the source stores it; any other model's
    reward is computed whenever transitions are read, as the model may be in training.
    """

    def __init__(
        self, context: SourceContext, constant: float | None = None, num_envs: int = 1, needed: bool = True
    ) -> None:
        """Makes a selector for `num_envs` parallel episodes; it ignores reward models if rewards are not needed."""
        model = context.agent.reward_model() if needed else None
        # in training, each member has its own model
        self._agents = context.agents if model is context.agent else [context.agent]
        self._gamma, self._constant = context.gamma, constant
        self._sign = context.env is not None and context.env.sign_reward
        self.recurrent = RecurrentRewardModel.of(context.agent, num_envs) if needed else None
        self.has_model = model is not None and self.recurrent is None  # a model without memory provides the rewards
        self.is_training = model is context.agent  # the model changes with every gradient step

    def data_rewards(self, true: Array, relabeled: Array | None = None) -> Array:
        """Returns rewards [...] without a reward model, from the environment's float32 [...] and the relabeled ones."""
        if self._constant is not None:
            return np.full_like(true, self._constant)
        if relabeled is not None:
            return relabeled
        return np.sign(true) if self._sign else true

    def of_step(self, obs: Any, action: Array, step: Step) -> Array:
        """Returns the float32 rewards [N] to store for a step of N environments."""
        if self.recurrent is not None:
            return self.recurrent.step_rewards(obs, action, step, self._gamma)
        return self.data_rewards(step.reward)

    def of_rows(self, data_rewards: Array, stored: Callable[[], Array], transitions: Callable[[], Batch]) -> Tensor:
        """Returns the rewards [...] of stored rows.

        Args:
            data_rewards: their rewards [...] without a reward model.
            stored: returns their stored rewards of a recurrent model.
            transitions: returns the rows in raw units, flattened, for any other model.
        """
        if self.recurrent is not None:
            return torch.from_numpy(stored())
        if self.has_model:
            return self.model_rewards(transitions()).cpu().reshape(data_rewards.shape)
        return torch.from_numpy(data_rewards)

    def model_rewards(self, transitions: Batch) -> Tensor:
        """Returns the reward model's rewards [N] of raw transitions [N, ...]."""
        return learned_rewards(self._agents, transitions)

    def restart(self) -> None:
        """Begins an episode in every environment."""
        if self.recurrent is not None:
            self.recurrent.restart()


def learned_rewards(agents: Sequence[Agent], transitions: Batch) -> Tensor:
    """Rewards [N] of raw transitions [N, ...] by the members' reward models, which are not recurrent.

    Each member's model computes the rewards of an equal number of rows, in order.
    """
    models = [model for agent in agents if (model := agent.reward_model()) is not None]
    count = len(transitions.action) // len(models)
    parts = []
    with torch.no_grad():
        for member, model in enumerate(models):
            for start in range(member * count, (member + 1) * count, MAX_ROWS):
                rows = slice(start, min(start + MAX_ROWS, (member + 1) * count))
                parts.append(model.nets[REWARD](model.preprocess(transitions.at(rows))))
    return torch.cat(parts)


def transitions_of(data: Dataset, rows: NDArray[np.int64], gamma: float, device: torch.device) -> Batch:
    """The columns that a reward model may read, at rows [N] of a dataset."""
    discount = gamma * ~np.asarray(data.columns["terminals"][rows], np.bool_)
    return Batch(
        obs=tensors(data.observations(rows), device),
        action=tensors(np.asarray(data.columns["actions"][rows]), device),
        next_obs=tensors(data.next_observations(rows), device),
        discount=tensors(discount.astype(np.float32), device),
    )


def rewards_of(data: Dataset, agent: Agent, gamma: float, device: torch.device) -> NDArray[np.float64]:
    """Rewards [N] of all rows of a dataset by the reward model that an agent is or has."""
    if RecurrentRewardModel.of(agent, 1) is not None:
        return _recurrent_rewards(data, agent, gamma, device)
    parts = []
    for start in range(0, len(data), MAX_ROWS):
        rows = np.arange(start, min(start + MAX_ROWS, len(data)))
        parts.append(learned_rewards([agent], transitions_of(data, rows, gamma, device)).double().cpu().numpy())
    return np.concatenate(parts)


def _recurrent_rewards(data: Dataset, agent: Agent, gamma: float, device: torch.device) -> NDArray[np.float64]:
    """Rewards [N] of a recurrent model, for MAX_EPISODES episodes in parallel, each in order."""
    rewards = np.empty(len(data))
    for first in range(0, len(data.starts), MAX_EPISODES):
        starts, ends = data.starts[first : first + MAX_EPISODES], data.ends[first : first + MAX_EPISODES]
        model = RecurrentRewardModel.of(agent, len(starts))
        assert model is not None
        never = torch.zeros(len(starts), dtype=torch.bool, device=device)
        for step in range(int((ends - starts).max())):
            # finished episodes are padded with their last row, whose reward is discarded
            rows, running = np.minimum(starts + step, ends - 1), starts + step < ends
            reward = model.next_rewards(transitions_of(data, rows, gamma, device), over=never)
            rewards[rows[running]] = reward.cpu().numpy()[running]
    return rewards


class ReturnScale:
    """Divides rewards by the running standard deviation of the discounted return (Engstrom et al. 2020).

    Scaled rewards are clipped, as in CleanRL, because the deviation of the first rewards is close to 0.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs)
        self._count, self._mean, self._moment = 0.0, 0.0, 0.0

    def __call__(self, reward: Any, done: Any, valid: Any) -> Any:
        self.count(reward, done, valid)
        return np.clip(reward / self.deviation, -MAX_SCALED_REWARD, MAX_SCALED_REWARD).astype(np.float32)

    @property
    def deviation(self) -> np.float64:
        """The standard deviation so far."""
        # NumPy's float64, as dividing float32 rewards by Python's float would round to float32 in between
        deviation: np.float64 = np.sqrt(np.float64(self._moment / max(self._count, 1.0) + 1e-8))
        return deviation

    def count(self, reward: Any, done: Any, valid: Any) -> None:
        """Adds a step [N] of every environment."""
        self._returns = self._gamma * self._returns + reward
        # Welford's algorithm in Python's numbers, which are faster and have the same bits
        for value in self._returns[valid].tolist():
            self._count += 1
            delta = value - self._mean
            self._mean += delta / self._count
            self._moment += delta * (value - self._mean)
        self._returns[done] = 0.0

    def cut(self) -> None:
        """Ends the present episodes."""
        self._returns[:] = 0.0

    def save(self) -> dict[str, Tensor]:
        """Returns the state, without the present episodes."""
        return {"scale": torch.tensor([self._count, self._mean, self._moment], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores a state from `save`."""
        self._count, self._mean, self._moment = tensors["scale"].tolist()
