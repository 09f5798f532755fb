"""Named nets and the trunk in front of them: computed once per gradient step, and unrolled over sequences."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from lfd.agents.memory import Memory
from lfd.agents.units import Units
from lfd.batch import Batch, Observation
from lfd.envs.spaces import Spaces
from lfd.rng import Rng

ENCODER, MEMORY = "encoder", "memory"  # names of the two parts of a shared trunk


class _Step:
    """State of the running gradient step; an object of its own, because setting attributes of a module is slow.

    It is the same object in all steps, as a recorded step checks that no object was replaced.
    """

    def __init__(self) -> None:
        self.restart(None)

    def restart(self, rng: Rng | None) -> None:
        """Forgets the outputs of nets."""
        self.rng = rng
        # (net, target, if gradients are computed, ids of inputs) -> output, inputs
        self.memo: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        # (id of observations, target) -> these, their features by the trunk
        self.features: dict[tuple[int, bool], tuple[Any, Tensor]] = {}


class Nets(Units):
    """Nets by name, their target networks, and in front of the nets `on_trunk` a trunk of encoder and memory."""

    def __init__(self, spaces: Spaces, nets: dict[str, nn.Module], on_trunk: Sequence[str] = ()) -> None:
        super().__init__(spaces)
        self.nets = nn.ModuleDict(nets)
        self.on_trunk = tuple(on_trunk)
        self.trunk = tuple(name for name in (ENCODER, MEMORY) if name in nets)  # names of the shared parts
        self.targets = nn.ModuleDict()
        self._now = _Step()

    def add_target_networks(self, names: list[str]) -> None:
        """Adds target networks of these nets, as copies, and of the trunk that they read."""
        trunk = self.trunk if set(names) & set(self.on_trunk) else ()
        for name in (*names, *trunk):
            self.targets[name] = copy.deepcopy(self.nets[name]).requires_grad_(False)

    def net(self, name: str, *inputs: Any, target: bool = False) -> Any:
        """The output of a net, or of its target network, computed once per gradient step for the same inputs."""
        module = (self.targets if target else self.nets)[name]
        if self._now.rng is None:
            return module(*inputs)
        key, memo = (name, target, torch.is_grad_enabled(), *map(id, inputs)), self._now.memo
        if key not in memo:
            # the inputs are stored with the output, as an id is unique only while its object lives
            memo[key] = (module(*inputs), inputs)
        return memo[key][0]

    def features(self, obs: Observation, target: bool = False) -> Observation:
        """What the nets of the trunk read of observations [B, ...]: features [B, F], or the observations themselves."""
        if not self.trunk:
            return obs
        if (id(obs), target) in self._now.features:
            return self._now.features[id(obs), target][1]
        assert not self.recurrent, "observations of a recurrent agent come from `unroll`"
        encoded: Tensor = self.net(ENCODER, obs, target=target)
        return encoded

    def begin_step(self, rng: Rng, training: bool = True) -> None:
        """Starts a gradient step; with `training` modules are in training mode until `end_step`."""
        self._now.restart(rng)
        if training:
            self.train()

    def end_step(self) -> None:
        """Ends the gradient step and sets all modules to evaluation mode."""
        self._now.restart(None)
        if self.training:
            self.eval()

    @property
    def rng(self) -> Rng:
        """The random numbers of the running gradient step."""
        assert self._now.rng is not None, "only inside a gradient step"
        return self._now.rng

    @property
    def recurrent(self) -> bool:
        """True if the agent has a memory, and is trained on sequences."""
        return MEMORY in self.nets

    def initial_state(self, number: int) -> Any:
        """The recurrent state [number, ...] at the start of episodes; () for an agent without memory."""
        return self._memory().initial_state(number) if self.recurrent else ()

    def restart(self, state: Any, done: Tensor) -> Any:
        """The recurrent state [N, ...] with the rows where `done` [N] is True reset to an episode's start."""
        return _restarted(state, done, self.initial_state(len(done)))

    def unroll(self, batch: Batch) -> Batch:
        """Flattens preprocessed sequences [B, L] to rows [B * L], or to their `valid` rows, and runs the memory.

        The memory starts at `state`, if the batch has it, and restarts at each `first`; `next_obs` is encoded with the
        memory of its own step. Target networks start at the same state, as in R2D2 (Kapturowski et al. 2019). The
        result has the column `state`: the recurrent state [B, ...] after the last steps. A batch of an agent without
        memory is returned as it is.
        """
        if not self.recurrent or "first" not in batch.__dict__:
            return batch
        columns = dict(batch.__dict__)
        first, valid = columns["first"], columns.pop("valid", None)
        state = columns.pop("state", None)
        state = self.initial_state(len(first)) if state is None else state
        keep = None if valid is None else valid.flatten().nonzero().squeeze(-1)
        flat = Batch(**columns).map(lambda column: _rows(column, keep))
        if MEMORY in self.targets:
            self._unroll(flat, first, state, keep, target=True)
        return flat.having(state=self._unroll(flat, first, state, keep))

    def _unroll(self, flat: Batch, first: Tensor, state: Any, keep: Tensor | None, target: bool = False) -> Any:
        """Stores the features of the rows' `obs` and `next_obs`; returns the state after the last steps."""
        memory, encode = self._memory(target), (self.targets if target else self.nets)[ENCODER]
        projected, outputs, states = _grid(memory.project(encode(flat.obs)), first.shape, keep), [], []
        initial = self.initial_state(len(first))
        for inputs, done in zip(projected.unbind(1), first.unbind(1), strict=True):
            output, state = memory(inputs, _restarted(state, done, initial))
            outputs.append(output)
            states.append(state)
        self._remember(flat.obs, _rows(torch.stack(outputs, 1), keep), target)
        if "next_obs" in flat.__dict__:
            after = _pytree.tree_map(lambda *steps: _rows(torch.stack(steps, 1), keep), *states)
            self._remember(flat.next_obs, memory(memory.project(encode(flat.next_obs)), after)[0], target)
        return state

    def _memory(self, target: bool = False) -> Memory:
        memory = (self.targets if target else self.nets)[MEMORY]
        assert isinstance(memory, Memory)
        return memory

    def _remember(self, obs: Observation, features: Tensor, target: bool = False) -> None:
        # the observations are stored with their features, as an id is unique only while its object lives
        self._now.features[id(obs), target] = obs, features

    def _forget(self, obs: Observation) -> None:
        self._now.features.pop((id(obs), False), None)


def _restarted(state: Any, done: Tensor, initial: Any) -> Any:
    """A recurrent state [N, ...] with the rows where `done` [N] is True replaced by those of `initial`."""

    def pick(running: Tensor, start: Tensor) -> Tensor:
        return torch.where(done.reshape(-1, *[1] * (running.dim() - 1)), start, running)

    return _pytree.tree_map(pick, state, initial)


def _rows(steps: Tensor, keep: Tensor | None) -> Tensor:
    """Values [B, L, ...] -> [B * L, ...], or those of the rows `keep`."""
    flat = steps.flatten(0, 1)
    return flat if keep is None else flat[keep]


def _grid(rows: Tensor, shape: torch.Size, keep: Tensor | None) -> Tensor:
    """Values of rows -> [B, L, ...], zero where no row is."""
    if keep is not None:
        rows = rows.new_zeros(shape.numel(), *rows.shape[1:]).index_copy(0, keep, rows)
    return rows.reshape(*shape, *rows.shape[1:])
