"""What every loss keeps to: finite terms, gradients only where they are addressed, members equal to single agents."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from lfd.learner.learner import Learner
from lfd.registry import parts
from lfd.rng import GeneratorRng, ReplayedRng, ShapeRecorder
from tests.algos.cases import gradients
from tests.algos.losses import CASES, agent_of, algo_of, batches_of, by_sgd

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


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
    if (groups - set(case.loss.through_critic)) & set(agent.on_trunk):
        groups |= set(agent.trunk)
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
    assert {name.split(".")[1] for name in slow} == set(agent.targets) & moved


@each_case
def test_terms_that_pass_through_a_critic_are_declared(case):
    learner = Learner([agent_of(case, 0)], algo_of(case), 0, torch.device("cpu"))
    terms = learner.evaluate(["row"], batches_of(case, 1), GeneratorRng(2))["row"].by_group
    critics = [net for name, net in learner.agent.nets.items() if name == "critic"]
    through = {
        group
        for group, term in terms.items()
        if group != "critic" and any(gradient.any() for net in critics for gradient in gradients(term, net))
    }
    assert through == set(case.loss.through_critic)


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
