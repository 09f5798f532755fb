"""What every loss keeps to: finite terms, gradients only where they are addressed, members equal to single agents."""

from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium as gym
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from lfd.agents import AgentSpec
from lfd.agents.actor_critic import Head, Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.bcq import BCQ, BCQNet
from lfd.agents.critic import CriticNet
from lfd.agents.deterministic import DeterministicPolicyCritic
from lfd.agents.judge import Inputs, JudgeSpec
from lfd.agents.policy_critic import PolicyCritic, PolicyQ
from lfd.agents.q import QNet
from lfd.agents.quantile import QuantileNet
from lfd.algos import Loss
from lfd.algos.airl import AIRL
from lfd.algos.awac import AWAC
from lfd.algos.bc import Cloning, Error
from lfd.algos.bcq import ContinuousBCQ, DiscreteBCQ
from lfd.algos.cql import ConservativeContinuous, ConservativeDiscrete
from lfd.algos.crr import CRR, Filter
from lfd.algos.dqn import DQN
from lfd.algos.edac import Diversity
from lfd.algos.fqe import FQE
from lfd.algos.gail import Discriminator, Form
from lfd.algos.iql import IQL
from lfd.algos.ppo import PPO
from lfd.algos.pwil import PWIL
from lfd.algos.qrdqn import QRDQN
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.algos.sac import SAC
from lfd.algos.td3 import TD3, DeterministicGradient
from lfd.algos.td3_bc import TD3BC
from lfd.algos.trex import TREX
from lfd.batch import Batch
from lfd.envs.spaces import Spaces
from lfd.learner import Algo, Learner, Target
from lfd.noise import Generated, Sketched, Taped
from lfd.optim import Optim, Optimizer
from lfd.registry import parts
from tests.algos.cases import BOX, DICT, FRAMES, PICTURE, TWO, VECTOR, batch, pairs


@dataclass
class Case:
    loss: Loss
    agent: AgentSpec
    action: gym.Space
    targets: tuple[str, ...] = ()
    obs: gym.Space = field(default_factory=lambda: VECTOR)
    judged: AgentSpec | None = None  # frozen as "policy", one for all members
    batch: Callable[..., Batch] = batch  # of a space of observations, one of actions and a seed


SMALL = [16, 16]
SLOTS = {"learner": "data", "expert": "demos"}
CASES = {
    "dqn": Case(DQN("data"), QNet(SMALL), TWO, ("q",)),
    "dqn_single": Case(DQN("data", double=False), QNet(SMALL), TWO, ("q",)),
    "dqn_dict": Case(DQN("data"), QNet(SMALL), TWO, ("q",), DICT),
    "dqn_frames": Case(DQN("data"), QNet(), TWO, ("q",), FRAMES),
    "dqn_picture": Case(DQN("data"), QNet(), TWO, ("q",), PICTURE),
    "ppo_discrete": Case(PPO("data", entropy=0.01), PolicyValue(SMALL), TWO),
    "ppo_continuous": Case(PPO("data", entropy=0.01), PolicyValue(SMALL), BOX),
    "ppo_frames": Case(PPO("data"), PolicyValue(), TWO, (), FRAMES),
    "bc_discrete": Case(Cloning("data", label_smoothing=0.1), Policy(SMALL), TWO),
    "bc_nll": Case(Cloning("data"), Policy(SMALL), BOX),
    "bc_l1": Case(Cloning("data", error=Error.l1, entropy=0.1), Policy(SMALL), BOX),
    "bc_mse": Case(Cloning("data", error=Error.mse), Policy(SMALL, head=Head.gaussian), BOX),
    "gap_discrete": Case(ConservativeDiscrete("data"), QNet(SMALL), TWO),
    "fqe_discrete": Case(FQE("data"), CriticNet(SMALL), TWO, ("critic",), judged=QNet(SMALL)),
    "fqe_continuous": Case(FQE("data"), CriticNet(SMALL), BOX, ("critic",), judged=SoftPolicyCritic(SMALL)),
    "fqe_dict": Case(FQE("data"), CriticNet(SMALL), BOX, ("critic",), DICT, Policy(SMALL)),
    "fqe_frames": Case(FQE("data"), CriticNet(), TWO, ("critic",), FRAMES, PolicyValue()),
    "sac": Case(SAC("data"), SoftPolicyCritic(SMALL), BOX, ("critic",)),
    "gap_continuous": Case(ConservativeContinuous("data", samples=3), SoftPolicyCritic(SMALL), BOX),
    "gap_lagrange": Case(ConservativeContinuous("data", samples=3, target_gap=1.0), SoftPolicyCritic(SMALL), BOX),
    "diversity": Case(Diversity("data"), SoftPolicyCritic(SMALL, critics=4), BOX),
    "diversity_dict": Case(Diversity("data"), SoftPolicyCritic(SMALL, critics=3), BOX, (), DICT),
    "td3": Case(TD3("data"), DeterministicPolicyCritic(SMALL), BOX, ("policy", "critic")),
    "td3_dict": Case(TD3("data"), DeterministicPolicyCritic(SMALL), BOX, ("policy", "critic"), DICT),
    "deterministic_gradient": Case(DeterministicGradient("data"), DeterministicPolicyCritic(SMALL), BOX),
    "td3_bc": Case(TD3BC("data"), DeterministicPolicyCritic(SMALL), BOX),
    "rebrac_critic": Case(
        ReBRACCritic("data"), DeterministicPolicyCritic(SMALL, critics=3, layer_norm=True), BOX, ("policy", "critic")
    ),
    "rebrac_actor": Case(ReBRACActor("data"), DeterministicPolicyCritic(SMALL, layer_norm=True), BOX),
    "gap_policy": Case(ConservativeDiscrete("data"), PolicyQ(SMALL), TWO),
    "gap_policy_frames": Case(ConservativeDiscrete("data"), PolicyQ(), TWO, (), FRAMES),
    "iql_continuous": Case(IQL("data"), PolicyCritic(SMALL), BOX, ("critic",)),
    "iql_discrete": Case(IQL("data"), PolicyCritic(SMALL), TWO, ("critic",), DICT),
    "iql_frames": Case(IQL("data"), PolicyCritic(), TWO, ("critic",), FRAMES),
    "awac_continuous": Case(AWAC("data"), PolicyCritic(SMALL), BOX, ("critic",)),
    "awac_discrete": Case(AWAC("data"), PolicyCritic(SMALL), TWO, ("critic",)),
    "crr_exp": Case(CRR("data"), PolicyQ(SMALL), TWO, ("policy", "q")),
    "crr_binary": Case(CRR("data", filter=Filter.binary), PolicyQ(SMALL), TWO, ("policy", "q")),
    "crr_all": Case(CRR("data", filter=Filter.all), PolicyQ(SMALL), TWO, ("policy", "q"), DICT),
    "crr_frames": Case(CRR("data"), PolicyQ(), TWO, ("policy", "q"), FRAMES),
    "gap_calibrated": Case(ConservativeContinuous("data", samples=3, calibrated=True), SoftPolicyCritic(SMALL), BOX),
    "gap_quantiles": Case(ConservativeDiscrete("data"), QuantileNet(SMALL, quantiles=5), TWO),
    "qrdqn": Case(QRDQN("data"), QuantileNet(SMALL, quantiles=5), TWO, ("q",)),
    "qrdqn_dict": Case(QRDQN("data"), QuantileNet(SMALL, quantiles=5), TWO, ("q",), DICT),
    "qrdqn_frames": Case(QRDQN("data"), QuantileNet(quantiles=5), TWO, ("q",), FRAMES),
    "bcq_discrete": Case(DiscreteBCQ("data"), BCQNet(SMALL), TWO, ("q",)),
    "bcq_discrete_dict": Case(DiscreteBCQ("data"), BCQNet(SMALL), TWO, ("q",), DICT),
    "bcq_discrete_frames": Case(DiscreteBCQ("data"), BCQNet(), TWO, ("q",), FRAMES),
    "bcq_continuous": Case(ContinuousBCQ("data"), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation")),
    "bcq_continuous_dict": Case(
        ContinuousBCQ("data", samples=3), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation"), DICT
    ),
    "bcq_continuous_frames": Case(
        ContinuousBCQ("data", samples=3), BCQ(SMALL, SMALL), BOX, ("critic", "perturbation"), FRAMES
    ),
    "trex": Case(TREX("data", hidden=SMALL), JudgeSpec(), BOX, batch=pairs),
    "trex_l1": Case(
        TREX("data", inputs=Inputs.obs_action, hidden=SMALL, l1=0.1), JudgeSpec(), TWO, (), DICT, batch=pairs
    ),
    "trex_frames": Case(
        TREX("data", inputs=Inputs.obs_next_obs, hidden=SMALL), JudgeSpec(), TWO, (), FRAMES, batch=pairs
    ),
    "gail": Case(Discriminator(SLOTS, hidden=SMALL, gradient_penalty=1.0, entropy=0.1), PolicyValue(SMALL), TWO),
    "gail_spectral": Case(
        Discriminator(SLOTS, hidden=SMALL, form=Form.log, spectral=True), SoftPolicyCritic(SMALL), BOX
    ),
    "gail_dict": Case(
        Discriminator(SLOTS, hidden=SMALL, inputs=Inputs.obs_next_obs, gradient_penalty=1.0), JudgeSpec(), TWO, (), DICT
    ),
    "airl": Case(AIRL(SLOTS, hidden=SMALL), PolicyValue(SMALL), TWO),
    "airl_continuous": Case(
        AIRL(SLOTS, hidden=SMALL, inputs=Inputs.obs_action), SoftPolicyCritic(SMALL), BOX, (), DICT
    ),
    "airl_frames": Case(AIRL(SLOTS, hidden=SMALL), PolicyValue(), TWO, (), FRAMES),
    "dqn_soft": Case(DQN("data", temperature=0.5), QNet(SMALL), TWO, ("q",)),
    "pwil": Case(PWIL("data", atoms=8), JudgeSpec(), TWO, (), DICT),
    "pwil_continuous": Case(PWIL("data", atoms=8), JudgeSpec(), BOX),
    "pwil_states": Case(PWIL("data", inputs=Inputs.obs, atoms=8), JudgeSpec(), BOX),
    "gail_frames": Case(Discriminator(SLOTS, hidden=SMALL, gradient_penalty=1.0), QNet(), TWO, (), FRAMES),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def algo_of(case: Case) -> Algo:
    return Algo(case.agent, {"row": case.loss}, lr=1e-3, targets={name: Target() for name in case.targets})


def by_sgd(case: Case) -> Algo:
    """Adam divides by the size of a gradient, so that rounding errors of one that is zero would be seen."""
    algo = algo_of(case)
    algo.optim = {group: Optim(Optimizer.sgd, lr=0.01) for group in agent_of(case, 0).nets}
    return algo


def agent_of(case: Case, seed: int):
    torch.manual_seed(seed)
    agent = case.agent.build(Spaces(case.obs, case.action))
    agent.add(case.loss.modules(agent))
    agent.keep_targets(list(case.targets))
    if case.judged is not None:
        torch.manual_seed(99)
        agent.frozen["policy"] = case.judged.build(Spaces(case.obs, case.action)).requires_grad_(False)
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
    out = learner.evaluate(["row"], batches_of(case, 1), Generated(2))["row"]
    assert set(out.terms) <= set(case.loss.trains)
    for value in (*out.terms.values(), *out.metrics.values()):
        assert value.shape == () and torch.isfinite(value)
    assert not any(value.requires_grad for value in (*out.metrics.values(), *out.feedback.values()))


@each_case
def test_a_step_moves_the_groups_with_terms_and_no_other(case):
    agent = agent_of(case, 0)
    learner = Learner([agent], algo_of(case), 0, torch.device("cpu"))
    groups = set(learner.evaluate(["row"], batches_of(case, 1), Generated(2))["row"].terms)
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
def test_a_repeated_step_has_the_bits_of_one_that_runs(case, members):
    def trained(repeats):
        learner = Learner([agent_of(case, seed) for seed in range(members)], algo_of(case), 0, torch.device("cpu"))
        if not repeats:
            learner._improve = learner._improve.function
        answers = []
        for step in range(4):
            batches = [batches_of(case, 10 * step + member) for member in range(members)]
            given = batches[0] if members == 1 else tree_map(lambda *columns: torch.stack(columns), *batches)
            answers.append(learner.step(given, ["row"]))
        if repeats:
            assert [program is not None for program in learner._improve.programs.values()] == [True]
        return [*tree_leaves(answers), *learner.state().values()]

    assert all(map(torch.equal, trained(True), trained(False)))


@each_case
def test_member_equals_a_single_agent(case):
    agents = [agent_of(case, seed) for seed in range(3)]
    batches = [batches_of(case, 10 + index) for index in range(3)]
    singles = [Learner([agent_of(case, seed)], by_sgd(case), 0, torch.device("cpu")) for seed in range(3)]
    many = Learner(agents, by_sgd(case), 0, torch.device("cpu"))
    stacked = tree_map(lambda *columns: torch.stack(columns), *batches)
    sketch = Sketched()
    singles[0].evaluate(["row"], batches[0], sketch)
    for _ in range(3):
        generator = Generated(5, members=3)
        draws = [generator.draw(kind, shape) for kind, shape in sketch.asked]
        many.noise = Taped(draws)
        many.step(stacked, ["row"])
        for index, single in enumerate(singles):
            single.noise = Taped([draw[index] for draw in draws])
            single.step(batches[index], ["row"])
    for index, single in enumerate(singles):
        for name, value in single.parameters.items():
            torch.testing.assert_close(many.parameters[name][index], value, rtol=1e-4, atol=1e-6)


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
