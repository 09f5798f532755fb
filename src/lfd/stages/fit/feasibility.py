"""Checks that a training stage can start from its inputs and fits into the memory of this machine."""

from functools import partial

from lfd.agents import Agent
from lfd.agents.config import build_on_meta
from lfd.hardware import check_memory
from lfd.stages import CheckContext
from lfd.stages.fit.agents import check_start
from lfd.stages.fit.config import FitConfig
from lfd.stages.sizes import least_row_bytes

AGENT_OVERHEAD = 100_000  # bytes of an agent in addition to its weights


def check_feasible(fit: FitConfig, context: CheckContext) -> None:
    """Raises UserError if the networks of `init_from` differ, or the memory of this machine does not suffice."""
    agent = build_on_meta(partial(fit.untrained_agent, context.spaces))
    _check_size(fit, agent, context)
    if fit.init_from:
        earlier = build_on_meta(partial(context.stages[fit.init_from].untrained_agent, context.spaces))
        if earlier is not None:
            check_start(f"{context.name}: init_from={fit.init_from}", agent, earlier)


def _check_size(fit: FitConfig, agent: Agent, context: CheckContext) -> None:
    name = context.name
    weights = sum(value.numel() * value.element_size() for value in agent.state_dict().values())
    # Weights, gradients and Adam's two moments.
    what = f"{name}: algo.agent of {weights:,} bytes of weights" + (f", members={fit.members}" * (fit.members > 1))
    check_memory(what, fit.members * (4 * weights + AGENT_OVERHEAD))
    row = 2 * least_row_bytes(context.spaces) + 4 * _widest(agent)
    uses = [fit.use_of(source, name, context) for source in fit.read_sources()]
    for use in uses:
        check_memory(f"{use.batch_key}={use.batch}", fit.members * use.batch * row)


def _widest(agent: Agent) -> int:
    """Number of outputs of the widest layer."""
    return max((value.shape[0] for value in agent.parameters() if value.dim() > 1), default=1)
