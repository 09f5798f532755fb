"""The agents that a training stage starts from."""

from collections.abc import Mapping

import torch

from lfd.agents import REWARD, Agent
from lfd.batch import tensors
from lfd.errors import UserError
from lfd.rng import derive
from lfd.sources.dataset import statistics
from lfd.stages import StageContext
from lfd.stages.fit.config import FitConfig
from lfd.stages.policies import split_name


def new_agents(fit: FitConfig, context: StageContext, device: torch.device) -> list[Agent]:
    """The members of a training stage, each with weights from its own seed or from an earlier product."""
    agents = []
    for index in range(fit.members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(fit.seed, "weights", index))
            agents.append(_agent(fit, context, index, device))
    return agents


def _agent(fit: FitConfig, context: StageContext, index: int, device: torch.device) -> Agent:
    agent = fit.untrained_agent(context.spaces)
    if agent.normalizers:
        _normalise(agent, fit, context)
    if fit.init_from:
        earlier = context.products[fit.init_from].agents()
        _copy_weights(agent, earlier[index if len(earlier) == fit.members else 0], fit.init_from)
    agent.add_target_networks(list(fit.algo.targets))
    for role, product in fit.frozen.items():
        base, snapshot = split_name(product)
        agents = context.products[base].agents(snapshot)
        if len(agents) > 1:
            raise UserError(f"frozen.{role}={product}: expected a single agent, got {len(agents)} members")
        check_frozen(f"frozen.{role}={product}", role, agents[0])
        agent.frozen[role] = agents[0].to(device)
    return agent.to(device)


def _normalise(agent: Agent, fit: FitConfig, context: StageContext) -> None:
    """Computes normalization statistics from the datasets that it reads; collectors add theirs as they collect."""
    products = [product for name, source in fit.read_sources().items() for product in source.products(name)]
    for product in dict.fromkeys(products):
        for part in statistics(context.products[product]):
            agent.update_normalizers(tensors(part, torch.device("cpu")))


def check_frozen(what: str, role: str, agent: Agent) -> None:
    """Raises UserError, which begins with `what`, if a frozen agent has a memory, unless only its reward is read."""
    if role != REWARD and agent.recurrent:
        raise UserError(
            f"{what}: expected a policy without memory, as losses read it at single transitions, got one with a "
            "memory; score it by episodes, as in targets=[score]"
        )


def check_start(what: str, agent: Agent, earlier: Agent) -> list[str]:
    """Names of the modules that both agents have.

    Raises UserError if there is none, if one of them has other shapes, or if only one agent normalizes observations.
    """
    if bool(earlier.normalizers) != bool(agent.normalizers):
        kind, setting = ("normalized", "true") if earlier.normalizers else ("raw", "false")
        raise UserError(f"{what}: its networks were trained on {kind} observations; set algo.normalize_obs={setting}")
    common = [module for module in earlier.nets if module in agent.nets]
    if not common:
        raise UserError(
            f"{what}: expected a net in common with those of this stage ({', '.join(agent.nets)}), got "
            f"{', '.join(earlier.nets)}; choose another algo, or leave init_from out"
        )
    for module in common:
        shapes = [_shapes(state.state_dict(), f"nets.{module}.") for state in (agent, earlier)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{what}: its module {module!r} has other layers than that of this stage; give both stages the same "
                "algo.agent"
            )
    return common


def _copy_weights(agent: Agent, earlier: Agent, name: str) -> None:
    """Copies the weights of all modules that both agents have, and the normalization statistics."""
    common = check_start(f"init_from={name}", agent, earlier)
    prefixes = ("normalizers.", *(f"nets.{module}." for module in common))
    copied = {key: value for key, value in earlier.state_dict().items() if key.startswith(prefixes)}
    agent.load_state_dict({**agent.state_dict(), **copied})


def _shapes(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items() if key.startswith(prefix)}
