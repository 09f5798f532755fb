"""The agents that a fit begins with."""

from collections.abc import Mapping

import torch

from lfd.agents import Agent
from lfd.batch import tensors
from lfd.envs import Spaces
from lfd.errors import Refused
from lfd.noise import derive
from lfd.sources.dataset import statistics
from lfd.stages import Lab
from lfd.stages.collect import split_name
from lfd.stages.recipe import Recipe


def new_agents(fit: Recipe, lab: Lab, device: torch.device) -> list[Agent]:
    """Every member of a fit, its weights drawn from a seed of its own or taken from an earlier product."""
    agents = []
    for index in range(fit.members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(fit.seed, "weights", index))
            agents.append(_agent(fit, lab, index, device))
    return agents


def blank(fit: Recipe, spaces: Spaces) -> Agent:
    """An agent with all its modules, before anything is known of data or earlier products."""
    agent = fit.algo.agent.build(spaces)
    for loss in fit.algo.losses.values():
        agent.add(loss.modules(agent))
    if fit.algo.normalize_obs:
        agent.normalise_observations()
    return agent


def _agent(fit: Recipe, lab: Lab, index: int, device: torch.device) -> Agent:
    agent = blank(fit, lab.spaces)
    if agent.normalisers:
        _normalise(agent, fit, lab)
    if fit.init_from:
        earlier = lab.products[fit.init_from].agents()
        _take_over(agent, earlier[index if len(earlier) == fit.members else 0], fit.init_from)
    agent.keep_targets(list(fit.algo.targets))
    for role, product in fit.frozen.items():
        base, snapshot = split_name(product)
        agents = lab.products[base].agents(snapshot)
        if len(agents) > 1:
            raise Refused(f"frozen.{role}={product} has {len(agents)} members; a single agent is expected")
        agent.frozen[role] = agents[0].to(device)
    return agent.to(device)


def _normalise(agent: Agent, fit: Recipe, lab: Lab) -> None:
    """Statistics of the datasets that are read; those of a rollout come with its steps."""
    products = [product for name, source in fit.read().items() for product in source.products(name)]
    for product in dict.fromkeys(products):
        for part in statistics(lab.products[product]):
            agent.update_normalisers(tensors(part, torch.device("cpu")))


def check_start(what: str, agent: Agent, earlier: Agent) -> list[str]:
    """The modules that both have. Raises Refused where not all of what carries one name is one network."""
    if bool(earlier.normalisers) != bool(agent.normalisers):
        saw = "normalised" if earlier.normalisers else "raw"
        wanted = str(bool(earlier.normalisers)).lower()
        raise Refused(f"{what}: its networks saw {saw} observations; set algo.normalize_obs={wanted}")
    common = [module for module in earlier.nets if module in agent.nets]
    if not common:
        raise Refused(
            f"{what}: its {type(earlier).__name__} has no module in common with the {type(agent).__name__} of this "
            "stage; choose an algo that has"
        )
    own, theirs = agent.state_dict(), earlier.state_dict()
    for module in common:
        shapes = [_shapes(state, f"nets.{module}.") for state in (own, theirs)]
        if shapes[0] != shapes[1]:
            raise Refused(
                f"{what}: its {module!r} is another network than that of this stage; give both agents the same "
                "algo.agent"
            )
    return common


def _take_over(agent: Agent, earlier: Agent, name: str) -> None:
    """Take the values of all modules that both have."""
    common = check_start(f"init_from={name}", agent, earlier)
    taken = ("normalisers.", *(f"nets.{module}." for module in common))
    theirs = {key: value for key, value in earlier.state_dict().items() if key.startswith(taken)}
    agent.load_state_dict({**agent.state_dict(), **theirs})


def _shapes(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items() if key.startswith(prefix)}
