"""A case of every loss, with its agent and a batch, for the tests of what all losses keep to."""

from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium as gym
import torch

from lfd.agents.config import AgentConfig
from lfd.agents.nets import Head
from lfd.agents.reward_model import Inputs
from lfd.algos import Loss
from lfd.algos.airl import AIRL
from lfd.algos.awac import AWAC
from lfd.algos.bc import BC, BCObjective
from lfd.algos.bcq import BCQContinuous, BCQDiscrete
from lfd.algos.cql import CQLContinuous, CQLDiscrete
from lfd.algos.crr import CRR, Filter
from lfd.algos.dqn import DQN
from lfd.algos.edac import EDAC
from lfd.algos.fqe import FQE
from lfd.algos.gail import GAIL, RewardFn
from lfd.algos.iql import IQL
from lfd.algos.large_margin import LargeMargin
from lfd.algos.ppo import PPO
from lfd.algos.qrdqn import QRDQN
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.algos.sac import SAC
from lfd.algos.td import TD
from lfd.algos.td3 import TD3Actor, TD3Critic
from lfd.algos.td3_bc import TD3BCActor
from lfd.algos.trex import TREX
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.learner.learner import Algo
from lfd.learner.optim import OptimConfig, OptimizerKind, Target
from tests import composed
from tests.algos.cases import BOX, DICT, FRAMES, PICTURE, TWO, VECTOR, batch, built, pairs


@dataclass
class Case:
    loss: Loss
    agent: AgentConfig
    action: gym.Space
    targets: tuple[str, ...] = ()
    obs: gym.Space = field(default_factory=lambda: VECTOR)
    evaluated: AgentConfig | None = None  # frozen as "policy", one for all members
    batch: Callable[..., Batch] = batch  # of a space of observations, one of actions and a seed


SMALL = [16, 16]
SLOTS = {"learner": "data", "expert": "demos"}
CASES = {
    "dqn": Case(DQN("data"), composed.q_net(SMALL), TWO, ("critic",)),
    "dqn_single": Case(DQN("data", double=False), composed.q_net(SMALL), TWO, ("critic",)),
    "dqn_dict": Case(DQN("data"), composed.q_net(SMALL), TWO, ("critic",), DICT),
    "dqn_frames": Case(DQN("data"), composed.q_net(), TWO, ("critic",), FRAMES),
    "dqn_picture": Case(DQN("data"), composed.q_net(), TWO, ("critic",), PICTURE),
    "ppo_discrete": Case(PPO("data", ent_coef=0.01), composed.policy_value(SMALL), TWO),
    "ppo_continuous": Case(PPO("data", ent_coef=0.01), composed.policy_value(SMALL), BOX),
    "ppo_frames": Case(PPO("data"), composed.policy_value(), TWO, (), FRAMES),
    "bc_discrete": Case(BC("data", label_smoothing=0.1), composed.policy(SMALL), TWO),
    "bc_nll": Case(BC("data"), composed.policy(SMALL), BOX),
    "bc_l1": Case(BC("data", error=BCObjective.l1, ent_coef=0.1), composed.policy(SMALL), BOX),
    "bc_mse": Case(BC("data", error=BCObjective.mse), composed.policy(SMALL, head=Head.gaussian), BOX),
    "cql_discrete": Case(CQLDiscrete("data"), composed.q_net(SMALL), TWO),
    "fqe_discrete": Case(FQE("data"), composed.critic(SMALL), TWO, ("critic",), evaluated=composed.q_net(SMALL)),
    "fqe_continuous": Case(
        FQE("data"), composed.critic(SMALL), BOX, ("critic",), evaluated=composed.soft_policy_critic(SMALL)
    ),
    "fqe_dict": Case(FQE("data"), composed.critic(SMALL), BOX, ("critic",), DICT, composed.policy(SMALL)),
    "fqe_frames": Case(FQE("data"), composed.critic(), TWO, ("critic",), FRAMES, composed.policy_value()),
    "sac": Case(SAC("data"), composed.soft_policy_critic(SMALL), BOX, ("critic",)),
    "cql_continuous": Case(CQLContinuous("data", samples=3), composed.soft_policy_critic(SMALL), BOX),
    "cql_lagrange": Case(CQLContinuous("data", samples=3, target_gap=1.0), composed.soft_policy_critic(SMALL), BOX),
    "edac": Case(EDAC("data"), composed.soft_policy_critic(SMALL, critics=4), BOX),
    "edac_dict": Case(EDAC("data"), composed.soft_policy_critic(SMALL, critics=3), BOX, (), DICT),
    "td3_critic": Case(TD3Critic("data"), composed.deterministic_policy_critic(SMALL), BOX, ("policy", "critic")),
    "td3_critic_dict": Case(
        TD3Critic("data"), composed.deterministic_policy_critic(SMALL), BOX, ("policy", "critic"), DICT
    ),
    "td3_actor": Case(TD3Actor("data"), composed.deterministic_policy_critic(SMALL), BOX),
    "td3_bc_actor": Case(TD3BCActor("data"), composed.deterministic_policy_critic(SMALL), BOX),
    "rebrac_critic": Case(
        ReBRACCritic("data"),
        composed.deterministic_policy_critic(SMALL, critics=3, layer_norm=True),
        BOX,
        ("policy", "critic"),
    ),
    "rebrac_actor": Case(ReBRACActor("data"), composed.deterministic_policy_critic(SMALL, layer_norm=True), BOX),
    "cql_policy": Case(CQLDiscrete("data"), composed.policy_q(SMALL), TWO),
    "cql_policy_frames": Case(CQLDiscrete("data"), composed.policy_q(), TWO, (), FRAMES),
    "iql_continuous": Case(IQL("data"), composed.policy_critic_value(SMALL), BOX, ("critic",)),
    "iql_discrete": Case(IQL("data"), composed.policy_critic_value(SMALL), TWO, ("critic",), DICT),
    "iql_frames": Case(IQL("data"), composed.policy_critic_value(), TWO, ("critic",), FRAMES),
    "awac_continuous": Case(AWAC("data"), composed.policy_critic(SMALL), BOX, ("critic",)),
    "awac_discrete": Case(AWAC("data"), composed.policy_critic(SMALL), TWO, ("critic",)),
    "crr_exp": Case(CRR("data"), composed.policy_q(SMALL), TWO, ("policy", "critic")),
    "crr_binary": Case(CRR("data", filter=Filter.binary), composed.policy_q(SMALL), TWO, ("policy", "critic")),
    "crr_all": Case(CRR("data", filter=Filter.all), composed.policy_q(SMALL), TWO, ("policy", "critic"), DICT),
    "crr_frames": Case(CRR("data"), composed.policy_q(), TWO, ("policy", "critic"), FRAMES),
    "cql_calibrated": Case(CQLContinuous("data", samples=3, calibrated=True), composed.soft_policy_critic(SMALL), BOX),
    "cql_quantiles": Case(CQLDiscrete("data"), composed.quantile_net(SMALL, quantiles=5), TWO),
    "qrdqn": Case(QRDQN("data"), composed.quantile_net(SMALL, quantiles=5), TWO, ("critic",)),
    "qrdqn_dict": Case(QRDQN("data"), composed.quantile_net(SMALL, quantiles=5), TWO, ("critic",), DICT),
    "qrdqn_frames": Case(QRDQN("data"), composed.quantile_net(quantiles=5), TWO, ("critic",), FRAMES),
    "bcq_discrete": Case(BCQDiscrete("data"), composed.bcq_discrete(SMALL), TWO, ("critic",)),
    "bcq_discrete_dict": Case(BCQDiscrete("data"), composed.bcq_discrete(SMALL), TWO, ("critic",), DICT),
    "bcq_discrete_frames": Case(BCQDiscrete("data"), composed.bcq_discrete(), TWO, ("critic",), FRAMES),
    "bcq_continuous": Case(BCQContinuous("data"), composed.bcq_continuous(SMALL), BOX, ("critic", "perturbation")),
    "bcq_continuous_dict": Case(
        BCQContinuous("data", samples=3), composed.bcq_continuous(SMALL), BOX, ("critic", "perturbation"), DICT
    ),
    "bcq_continuous_frames": Case(
        BCQContinuous("data", samples=3), composed.bcq_continuous(SMALL), BOX, ("critic", "perturbation"), FRAMES
    ),
    "trex": Case(TREX("data", hidden=SMALL), composed.reward_model(), BOX, batch=pairs),
    "trex_l1": Case(
        TREX("data", inputs=Inputs.obs_action, hidden=SMALL, l1=0.1),
        composed.reward_model(),
        TWO,
        (),
        DICT,
        batch=pairs,
    ),
    "trex_frames": Case(
        TREX("data", inputs=Inputs.obs_next_obs, hidden=SMALL), composed.reward_model(), TWO, (), FRAMES, batch=pairs
    ),
    "gail": Case(GAIL(SLOTS, hidden=SMALL, gradient_penalty=1.0, ent_coef=0.1), composed.policy_value(SMALL), TWO),
    "gail_spectral": Case(
        GAIL(SLOTS, hidden=SMALL, reward_fn=RewardFn.log_d, spectral_norm=True), composed.soft_policy_critic(SMALL), BOX
    ),
    "gail_dict": Case(
        GAIL(SLOTS, hidden=SMALL, inputs=Inputs.obs_next_obs, gradient_penalty=1.0),
        composed.reward_model(),
        TWO,
        (),
        DICT,
    ),
    "airl": Case(AIRL(SLOTS, hidden=SMALL), composed.policy_value(SMALL), TWO),
    "airl_continuous": Case(
        AIRL(SLOTS, hidden=SMALL, inputs=Inputs.obs_action), composed.soft_policy_critic(SMALL), BOX, (), DICT
    ),
    "airl_frames": Case(AIRL(SLOTS, hidden=SMALL), composed.policy_value(), TWO, (), FRAMES),
    "td_discrete": Case(TD("data"), composed.policy_q(SMALL), TWO, ("critic",)),
    "td_continuous": Case(TD("data"), composed.soft_policy_critic(SMALL), BOX, ("critic",), DICT),
    "td_frames": Case(TD("data"), composed.policy_q(), TWO, ("critic",), FRAMES),
    "large_margin": Case(LargeMargin("data"), composed.q_net(SMALL), TWO),
    "large_margin_frames": Case(LargeMargin("data"), composed.q_net(), TWO, (), FRAMES),
    "dqn_soft": Case(DQN("data", temperature=0.5), composed.q_net(SMALL), TWO, ("critic",)),
    "gail_frames": Case(GAIL(SLOTS, hidden=SMALL, gradient_penalty=1.0), composed.q_net(), TWO, (), FRAMES),
}


def algo_of(case: Case) -> Algo:
    return Algo(case.agent, {"row": case.loss}, lr=1e-3, targets={name: Target() for name in case.targets})


def by_sgd(case: Case) -> Algo:
    """Adam divides by the size of a gradient, so that rounding errors of one that is zero would be seen."""
    algo = algo_of(case)
    algo.optim = {group: OptimConfig(OptimizerKind.sgd, lr=0.01) for group in agent_of(case, 0).nets}
    return algo


def agent_of(case: Case, seed: int):
    torch.manual_seed(seed)
    agent = built(case.agent, Spaces(case.obs, case.action), case.loss, targets=case.targets)
    if case.evaluated is not None:
        torch.manual_seed(99)
        agent.frozen["policy"] = case.evaluated.build(Spaces(case.obs, case.action)).requires_grad_(False)
    return agent


def batches_of(case: Case, seed: int) -> dict[str, Batch]:
    """Of each source that the loss reads, rows of its own."""
    names = dict.fromkeys(name for name, _ in case.loss.slots.values())
    return {name: case.batch(case.obs, case.action, seed + 100 * index) for index, name in enumerate(names)}
