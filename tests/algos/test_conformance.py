"""What every loss keeps to: finite terms, gradients only where they are addressed, members equal to single agents."""

from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium as gym
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from lfd.agents import AgentSpec
from lfd.agents.actor_critic import Head, PolicySpec, PolicyValue, SoftPolicyCritic
from lfd.agents.bcq import BCQ, BCQNet
from lfd.agents.critic import CriticNet
from lfd.agents.deterministic import DeterministicPolicyCritic
from lfd.agents.policy_critic import PolicyCritic, PolicyQ
from lfd.agents.q import QNet
from lfd.agents.quantile import QuantileNet
from lfd.agents.reward_model import Inputs, RewardModelSpec
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
from lfd.algos.ppo import PPO
from lfd.algos.qrdqn import QRDQN
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.algos.sac import SAC
from lfd.algos.td3 import TD3Actor, TD3Critic
from lfd.algos.td3_bc import TD3BCActor
from lfd.algos.trex import TREX
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import OptimConfig, OptimizerKind, Target
from lfd.registry import parts
from lfd.rng import GeneratorRng, ReplayedRng, ShapeRecorder
from tests.algos.cases import BOX, DICT, FRAMES, PICTURE, TWO, VECTOR, batch, pairs


@dataclass
class Case:
    loss: Loss
    agent: AgentSpec
    action: gym.Space
    targets: tuple[str, ...] = ()
    obs: gym.Space = field(default_factory=lambda: VECTOR)
    evaluated: AgentSpec | None = None  # frozen as "policy", one for all members
    batch: Callable[..., Batch] = batch  # of a space of observations, one of actions and a seed


SMALL = [16, 16]
SLOTS = {"learner": "data", "expert": "demos"}
CASES = {
    "dqn": Case(DQN("data"), QNet(SMALL), TWO, ("q",)),
    "dqn_single": Case(DQN("data", double=False), QNet(SMALL), TWO, ("q",)),
    "dqn_dict": Case(DQN("data"), QNet(SMALL), TWO, ("q",), DICT),
    "dqn_frames": Case(DQN("data"), QNet(), TWO, ("q",), FRAMES),
    "dqn_picture": Case(DQN("data"), QNet(), TWO, ("q",), PICTURE),
    "ppo_discrete": Case(PPO("data", ent_coef=0.01), PolicyValue(SMALL), TWO),
    "ppo_continuous": Case(PPO("data", ent_coef=0.01), PolicyValue(SMALL), BOX),
    "ppo_frames": Case(PPO("data"), PolicyValue(), TWO, (), FRAMES),
    "bc_discrete": Case(BC("data", label_smoothing=0.1), PolicySpec(SMALL), TWO),
    "bc_nll": Case(BC("data"), PolicySpec(SMALL), BOX),
    "bc_l1": Case(BC("data", error=BCObjective.l1, ent_coef=0.1), PolicySpec(SMALL), BOX),
    "bc_mse": Case(BC("data", error=BCObjective.mse), PolicySpec(SMALL, head=Head.gaussian), BOX),
    "cql_discrete": Case(CQLDiscrete("data"), QNet(SMALL), TWO),
    "fqe_discrete": Case(FQE("data"), CriticNet(SMALL), TWO, ("critic",), evaluated=QNet(SMALL)),
    "fqe_continuous": Case(FQE("data"), CriticNet(SMALL), BOX, ("critic",), evaluated=SoftPolicyCritic(SMALL)),
    "fqe_dict": Case(FQE("data"), CriticNet(SMALL), BOX, ("critic",), DICT, PolicySpec(SMALL)),
    "fqe_frames": Case(FQE("data"), CriticNet(), TWO, ("critic",), FRAMES, PolicyValue()),
    "sac": Case(SAC("data"), SoftPolicyCritic(SMALL), BOX, ("critic",)),
    "cql_continuous": Case(CQLContinuous("data", samples=3), SoftPolicyCritic(SMALL), BOX),
    "cql_lagrange": Case(CQLContinuous("data", samples=3, target_gap=1.0), SoftPolicyCritic(SMALL), BOX),
    "edac": Case(EDAC("data"), SoftPolicyCritic(SMALL, critics=4), BOX),
    "edac_dict": Case(EDAC("data"), SoftPolicyCritic(SMALL, critics=3), BOX, (), DICT),
    "td3_critic": Case(TD3Critic("data"), DeterministicPolicyCritic(SMALL), BOX, ("policy", "critic")),
    "td3_critic_dict": Case(TD3Critic("data"), DeterministicPolicyCritic(SMALL), BOX, ("policy", "critic"), DICT),
    "td3_actor": Case(TD3Actor("data"), DeterministicPolicyCritic(SMALL), BOX),
    "td3_bc_actor": Case(TD3BCActor("data"), DeterministicPolicyCritic(SMALL), BOX),
    "rebrac_critic": Case(
        ReBRACCritic("data"), DeterministicPolicyCritic(SMALL, critics=3, layer_norm=True), BOX, ("policy", "critic")
    ),
    "rebrac_actor": Case(ReBRACActor("data"), DeterministicPolicyCritic(SMALL, layer_norm=True), BOX),
    "cql_policy": Case(CQLDiscrete("data"), PolicyQ(SMALL), TWO),
    "cql_policy_frames": Case(CQLDiscrete("data"), PolicyQ(), TWO, (), FRAMES),
    "iql_continuous": Case(IQL("data"), PolicyCritic(SMALL), BOX, ("critic",)),
    "iql_discrete": Case(IQL("data"), PolicyCritic(SMALL), TWO, ("critic",), DICT),
    "iql_frames": Case(IQL("data"), PolicyCritic(), TWO, ("critic",), FRAMES),
    "awac_continuous": Case(AWAC("data"), PolicyCritic(SMALL), BOX, ("critic",)),
    "awac_discrete": Case(AWAC("data"), PolicyCritic(SMALL), TWO, ("critic",)),
    "crr_exp": Case(CRR("data"), PolicyQ(SMALL), TWO, ("policy", "q")),
    "crr_binary": Case(CRR("data", filter=Filter.binary), PolicyQ(SMALL), TWO, ("policy", "q")),
    "crr_all": Case(CRR("data", filter=Filter.all), PolicyQ(SMALL), TWO, ("policy", "q"), DICT),
    "crr_frames": Case(CRR("data"), PolicyQ(), TWO, ("policy", "q"), FRAMES),
    "cql_calibrated": Case(CQLContinuous("data", samples=3, calibrated=True), SoftPolicyCritic(SMALL), BOX),
    "cql_quantiles": Case(CQLDiscrete("data"), QuantileNet(SMALL, quantiles=5), TWO),
    "qrdqn": Case(QRDQN("data"), QuantileNet(SMALL, quantiles=5), TWO, ("q",)),
    "qrdqn_dict": Case(QRDQN("data"), QuantileNet(SMALL, quantiles=5), TWO, ("q",), DICT),
    "qrdqn_frames": Case(QRDQN("data"), QuantileNet(quantiles=5), TWO, ("q",), FRAMES),
    "bcq_discrete": Case(BCQDiscrete("data"), BCQNet(SMALL), TWO, ("q",)),
    "bcq_discrete_dict": Case(BCQDiscrete("data"), BCQNet(SMALL), TWO, ("q",), DICT),
    "bcq_discrete_frames": Case(BCQDiscrete("data"), BCQNet(), TWO, ("q",), FRAMES),
    "bcq_continuous": Case(BCQContinuous("data"), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation")),
    "bcq_continuous_dict": Case(
        BCQContinuous("data", samples=3), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation"), DICT
    ),
    "bcq_continuous_frames": Case(
        BCQContinuous("data", samples=3), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation"), FRAMES
    ),
    "trex": Case(TREX("data", hidden=SMALL), RewardModelSpec(), BOX, batch=pairs),
    "trex_l1": Case(
        TREX("data", inputs=Inputs.obs_action, hidden=SMALL, l1=0.1), RewardModelSpec(), TWO, (), DICT, batch=pairs
    ),
    "trex_frames": Case(
        TREX("data", inputs=Inputs.obs_next_obs, hidden=SMALL), RewardModelSpec(), TWO, (), FRAMES, batch=pairs
    ),
    "gail": Case(GAIL(SLOTS, hidden=SMALL, gradient_penalty=1.0, ent_coef=0.1), PolicyValue(SMALL), TWO),
    "gail_spectral": Case(
        GAIL(SLOTS, hidden=SMALL, reward_fn=RewardFn.log_d, spectral_norm=True), SoftPolicyCritic(SMALL), BOX
    ),
    "gail_dict": Case(
        GAIL(SLOTS, hidden=SMALL, inputs=Inputs.obs_next_obs, gradient_penalty=1.0), RewardModelSpec(), TWO, (), DICT
    ),
    "airl": Case(AIRL(SLOTS, hidden=SMALL), PolicyValue(SMALL), TWO),
    "airl_continuous": Case(
        AIRL(SLOTS, hidden=SMALL, inputs=Inputs.obs_action), SoftPolicyCritic(SMALL), BOX, (), DICT
    ),
    "airl_frames": Case(AIRL(SLOTS, hidden=SMALL), PolicyValue(), TWO, (), FRAMES),
    "dqn_soft": Case(DQN("data", temperature=0.5), QNet(SMALL), TWO, ("q",)),
    "gail_frames": Case(GAIL(SLOTS, hidden=SMALL, gradient_penalty=1.0), QNet(), TWO, (), FRAMES),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def algo_of(case: Case) -> Algo:
    return Algo(case.agent, {"row": case.loss}, lr=1e-3, targets={name: Target() for name in case.targets})


def by_sgd(case: Case) -> Algo:
    """Adam divides by the size of a gradient, so that rounding errors of one that is zero would be seen."""
    algo = algo_of(case)
    algo.optim = {group: OptimConfig(OptimizerKind.sgd, lr=0.01) for group in agent_of(case, 0).nets}
    return algo


def agent_of(case: Case, seed: int):
    torch.manual_seed(seed)
    agent = case.agent.build(Spaces(case.obs, case.action))
    agent.add(case.loss.modules(agent))
    agent.add_target_networks(list(case.targets))
    if case.evaluated is not None:
        torch.manual_seed(99)
        agent.frozen["policy"] = case.evaluated.build(Spaces(case.obs, case.action)).requires_grad_(False)
    return agent


def batches_of(case: Case, seed: int) -> dict[str, Batch]:
    """Of each source that the loss reads, rows of its own."""
    names = dict.fromkeys(name for name, _ in case.loss.slots.values())
    return {name: case.batch(case.obs, case.action, seed + 100 * index) for index, name in enumerate(names)}


def test_every_registered_loss_has_a_case():
    assert {type(case.loss) for case in CASES.values()} == set(parts("loss").values())


@each_case
def test_terms_are_finite_scalars_of_declared_groups(case):
    learner = Learner([agent_of(case, 0)], algo_of(case), 0, torch.device("cpu"))
    out = learner.evaluate(["row"], batches_of(case, 1), GeneratorRng(2))["row"]
    assert set(out.by_group) <= set(case.loss.trains)
    for value in (*out.by_group.values(), *out.metrics.named("row").values()):
        assert value.shape == () and torch.isfinite(value)
    assert not any(value.requires_grad for value in (*out.metrics.named("row").values(), *out.feedback.values()))


@each_case
def test_step_changes_only_groups_with_terms(case):
    agent = agent_of(case, 0)
    learner = Learner([agent], algo_of(case), 0, torch.device("cpu"))
    groups = set(learner.evaluate(["row"], batches_of(case, 1), GeneratorRng(2))["row"].by_group)
    groups |= {trunk for trunk, parts in agent.shared.items() if groups & set(parts)}
    before = {name: value.detach().clone() for name, value in learner.parameters.items()}
    learner.step(batches_of(case, 1), ["row"])
    moved = {name.split(".")[1] for name, value in learner.parameters.items()
             if name.startswith("nets.") and not torch.equal(value, before[name])}  # fmt: skip
    assert moved == groups
    slow = [
        name
        for name in before
        if name.startswith("targets.") and not torch.equal(learner.parameters[name], before[name])
    ]
    assert {name.split(".")[1] for name in slow} == set(case.targets) & moved


@pytest.mark.parametrize("members", [1, 2])
@each_case
def test_replayed_step_has_the_bits_of_the_step_itself(case, members):
    def trained(repeats):
        learner = Learner([agent_of(case, seed) for seed in range(members)], algo_of(case), 0, torch.device("cpu"))
        if not repeats:
            learner._replay = learner._replay.function
        answers = []
        for step in range(4):
            batches = [batches_of(case, 10 * step + member) for member in range(members)]
            given = batches[0] if members == 1 else tree_map(lambda *columns: torch.stack(columns), *batches)
            answers.append(learner.step(given, ["row"]))
        if repeats:
            assert [program is not None for program in learner._replay.programs.values()] == [True]
        return [*tree_leaves(answers), *learner.state().values()]

    assert all(map(torch.equal, trained(True), trained(False)))


@each_case
def test_member_equals_a_single_agent(case):
    agents = [agent_of(case, seed) for seed in range(3)]
    batches = [batches_of(case, 10 + index) for index in range(3)]
    singles = [Learner([agent_of(case, seed)], by_sgd(case), 0, torch.device("cpu")) for seed in range(3)]
    many = Learner(agents, by_sgd(case), 0, torch.device("cpu"))
    stacked = tree_map(lambda *columns: torch.stack(columns), *batches)
    sketch = ShapeRecorder()
    singles[0].evaluate(["row"], batches[0], sketch)
    for _ in range(3):
        generator = GeneratorRng(5, members=3)
        draws = [generator.draw(kind, shape) for kind, shape in sketch.requests]
        many.rng = ReplayedRng(draws)
        many.step(stacked, ["row"])
        for index, single in enumerate(singles):
            single.rng = ReplayedRng([draw[index] for draw in draws])
            single.step(batches[index], ["row"])
    for index, single in enumerate(singles):
        for name, value in single.parameters.items():
            torch.testing.assert_close(many.parameters[name][index], value, rtol=1e-4, atol=1e-6)
        for name, value in single.buffers.items():
            torch.testing.assert_close(many.buffers[name][index], value, rtol=1e-4, atol=1e-6)


@each_case
def test_state_round_trip_continues_to_the_same_bits(case):
    def fresh():
        return Learner([agent_of(case, 0)], algo_of(case), 3, torch.device("cpu"))

    straight, first, second = fresh(), fresh(), fresh()
    for step in range(4):
        straight.step(batches_of(case, step), ["row"])
    for step in range(2):
        first.step(batches_of(case, step), ["row"])
    second.restore({name: value.clone() for name, value in first.state().items()})
    for step in range(2, 4):
        second.step(batches_of(case, step), ["row"])
    for name, value in straight.parameters.items():
        assert torch.equal(second.parameters[name], value), name
