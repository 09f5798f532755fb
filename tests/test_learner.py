import pytest
import torch

from lfd.agents.actor_critic import PolicyValue, SoftPolicyCritic
from lfd.agents.q import QNet
from lfd.algos import Out
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeContinuous, ConservativeDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.algos.sac import SAC
from lfd.batch import Batch
from lfd.errors import Refused
from lfd.learner import Algo, Learner, Phase, Target
from lfd.noise import Generated
from lfd.optim import Descent, Optim, Optimizer

CPU = torch.device("cpu")
SIZES = [8]


def built(spec, env, losses, targets=(), seed=0):
    torch.manual_seed(seed)
    agent = spec.build(env.spaces())
    for loss in losses.values():
        agent.add(loss.modules(agent))
    agent.keep_targets(list(targets))
    return agent


def batch_of(size, seed=0, continuous=False):
    g = torch.Generator().manual_seed(seed)
    draw = {name: torch.randn(size, generator=g) for name in ("reward", "log_prob", "advantage", "value_target")}
    action = torch.rand(size, 1, generator=g) * 4 - 2 if continuous else torch.randint(2, (size,), generator=g)
    obs, next_obs = torch.randn(2, size, 2, generator=g)
    return Batch(obs=obs, next_obs=next_obs, action=action, discount=torch.full((size,), 0.9), **draw)


def stacked(batches):
    return torch.utils._pytree.tree_map(lambda *columns: torch.stack(columns), *batches)


def q_learner(env, **settings):
    losses = {"td": DQN("data")}
    algo = Algo(QNet(SIZES), losses, **{"targets": {"q": Target()}, **settings})
    return Learner([built(algo.agent, env, losses, ["q"])], algo, 0, CPU)


def moved(learner, before, prefix):
    return any(not torch.equal(learner.parameters[name], before[name]) for name in before if name.startswith(prefix))


def frozen_copy(learner):
    return {name: value.detach().clone() for name, value in learner.parameters.items()}


def test_every_group_has_its_own_optimiser(counting):
    losses = {"ppo": PPO("data")}
    algo = Algo(PolicyValue(SIZES), losses, optim={"value": Optim(lr=0.0), "policy": Optim(Optimizer.sgd, lr=0.1)})
    learner = Learner([built(algo.agent, counting, losses)], algo, 0, CPU)
    before = frozen_copy(learner)
    learner.step({"data": batch_of(16)}, ["ppo"])
    assert moved(learner, before, "nets.policy.") and not moved(learner, before, "nets.value.")
    # One step of SGD follows the gradient, so its size differs from weight to weight; Adam's does not.
    steps = learner.parameters["nets.policy.net.head.0.weight"] - before["nets.policy.net.head.0.weight"]
    assert steps.abs().max() > 2 * steps.abs().median()


@pytest.mark.parametrize("members", [1, 3])
def test_the_norm_of_a_groups_gradient_is_clipped_for_each_member(counting_continuous, members):
    losses = {"sac": SAC("data"), "gap": ConservativeContinuous("data", samples=2, target_gap=1.0)}
    names = ("policy", "critic", "multiplier", "temperature")
    algo = Algo(
        SoftPolicyCritic(SIZES), losses, targets={"critic": Target()},
        optim={name: Optim(Optimizer.sgd, lr=1.0, clip=0.01) for name in names},
    )  # fmt: skip
    agents = [built(algo.agent, counting_continuous, losses, ["critic"], seed) for seed in range(members)]
    learner = Learner(agents, algo, 0, CPU)
    before = frozen_copy(learner)
    batches = [batch_of(16, seed, continuous=True) for seed in range(members)]
    learner.step({"data": batches[0] if members == 1 else stacked(batches)}, ["sac", "gap"])
    for group in names:
        steps = [learner.parameters[n] - before[n] for n in before if n.startswith(f"nets.{group}.")]
        norms = torch.stack([step.detach().reshape(members, -1).square().sum(-1) for step in steps]).sum(0).sqrt()
        assert (norms <= 0.01 * (1 + 1e-4)).all() and (norms > 0).all(), group
    if members == 1:
        assert norms.shape == (1,)


def test_learning_rates_follow_their_schedule(counting):
    learner = q_learner(counting, lr={"start": 0.1, "end": 0.0, "steps": 2}, optim={"q": Optim(Optimizer.sgd)})
    for rate in (0.1, 0.05, 0.0, 0.0):
        before = frozen_copy(learner)
        learner.step({"data": batch_of(16)}, ["td"])
        assert learner.descents["q"].rate(learner.step_count - 1) == pytest.approx(rate)
        assert moved(learner, before, "nets.") == (rate > 0)


@pytest.mark.parametrize("kind", list(Optimizer))
def test_a_descent_equals_that_of_torch_optim(kind):
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.randn(4)]
    config = Optim(kind, lr=0.1, eps=1e-5, weight_decay=0.01, momentum=0.9 if kind is Optimizer.sgd else 0.0)
    ours, theirs = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    descent = Descent(config, 1.0, ours, 1)
    common = {"lr": 0.1, "weight_decay": 0.01, "fused": True}
    reference = {
        Optimizer.adam: lambda: torch.optim.Adam(theirs, eps=1e-5, **common),
        Optimizer.adamw: lambda: torch.optim.AdamW(theirs, eps=1e-5, **common),
        Optimizer.sgd: lambda: torch.optim.SGD(theirs, momentum=0.9, **common),
    }[kind]()
    for step in range(4):
        gradients = [torch.randn(3, 4), None if step % 2 else torch.randn(4)]
        for value, gradient in zip(theirs, gradients, strict=True):
            value.grad = gradient
        reference.step()
        descent.begin_step(step)
        descent.step(gradients)
        for value, expected in zip(ours, theirs, strict=True):
            assert torch.equal(value, expected)


def test_weights_follow_their_schedule(counting):
    def gradient(weight, steps):
        losses = {"bc": Cloning("data", weight=weight)}
        algo = Algo(PolicyValue(SIZES), losses, optim={"policy": Optim(Optimizer.sgd, lr=1.0)})
        learner = Learner([built(algo.agent, counting, losses)], algo, 0, CPU)
        learner.step_count = steps
        before = frozen_copy(learner)
        learner.step({"data": batch_of(16)}, ["bc"])
        return torch.cat([(learner.parameters[n] - before[n]).detach().ravel() for n in before])

    weight = {"start": 1.0, "end": 0.0, "steps": 4}
    full = gradient(1.0, 0)
    for steps, share in ((0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0), (9, 0.0)):
        torch.testing.assert_close(gradient(weight, steps), share * full)


@pytest.mark.parametrize("members", [1, 2])
def test_a_step_in_which_no_loss_is_due_changes_nothing(counting, members):
    losses = {"gap": ConservativeDiscrete("data")}
    algo = Algo(QNet(SIZES), losses)
    learner = Learner([built(algo.agent, counting, losses, seed=seed) for seed in range(members)], algo, 0, CPU)
    learner.step_count = 1
    before = frozen_copy(learner)
    assert learner.step({}, []) == ({}, {}) and learner.step_count == 2
    assert not moved(learner, before, "")


def test_slow_copies_follow_by_share_or_by_period(counting):
    for target, expected in (
        (Target(tau=0.25), [0.25, 0.25, 0.25, 0.25]),
        (Target(tau=0.25, every=2), [0.25, 0.0, 0.25, 0.0]),
        (Target(period=2), [0.0, 1.0, 0.0, 1.0]),
    ):
        learner = q_learner(counting, targets={"q": target})
        for share in expected:
            slow = learner.parameters["targets.q.head.0.weight"].detach().clone()
            learner.step({"data": batch_of(16)}, ["td"])
            fast = learner.parameters["nets.q.head.0.weight"].detach()
            torch.testing.assert_close(learner.parameters["targets.q.head.0.weight"], slow.lerp(fast, share))


def test_fused_optimisers_follow_transposed_gradients_of_members(counting):
    """They walk the memory of a gradient, so one with the strides of its transpose would be applied transposed."""
    losses = {"td": DQN("data")}
    algo = Algo(QNet([8, 8]), losses, lr=0.1, targets={"q": Target()})
    agents = [built(algo.agent, counting, losses, ["q"], seed) for seed in range(3)]
    single = Learner([built(algo.agent, counting, losses, ["q"], 1)], algo, 0, CPU)
    many = Learner(agents, algo, 0, CPU)
    batches = [batch_of(32, seed) for seed in range(3)]
    many.step({"data": stacked(batches)}, ["td"])
    single.step({"data": batches[1]}, ["td"])
    for name, value in single.parameters.items():
        torch.testing.assert_close(many.parameters[name][1], value, rtol=1e-3, atol=1e-4)


def test_every_member_stays_an_agent_of_its_own(counting):
    losses = {"td": DQN("data")}
    algo = Algo(QNet(SIZES), losses, targets={"q": Target()})
    agents = [built(algo.agent, counting, losses, ["q"], seed) for seed in range(3)]
    expected = [agent.nets["q"].head[0].weight.detach().clone() for agent in agents]
    learner = Learner(agents, algo, 0, CPU)
    for agent, weight in zip(learner.agents, expected, strict=True):
        assert torch.equal(agent.nets["q"].head[0].weight, weight)
    learner.step({"data": stacked([batch_of(16, seed) for seed in range(3)])}, ["td"])
    stepped = learner.parameters["nets.q.head.0.weight"]
    assert all(torch.equal(agent.nets["q"].head[0].weight, stepped[i]) for i, agent in enumerate(learner.agents))
    assert not torch.equal(stepped[0], expected[0])


def test_members_draw_for_batches_of_several_sizes(counting_continuous):
    losses = {"sac": SAC("data")}
    algo = Algo(SoftPolicyCritic(SIZES), losses, targets={"critic": Target()})
    agents = [built(algo.agent, counting_continuous, losses, ["critic"], seed) for seed in range(2)]
    learner = Learner(agents, algo, 0, CPU)
    for size in (16, 5, 16):
        batch = stacked([batch_of(size, seed, continuous=True) for seed in range(2)])
        out = learner.evaluate(["sac"], {"data": batch}, Generated(0, members=2))["sac"]
        assert out.metrics["loss"].shape == (2,) and torch.isfinite(out.metrics["loss"]).all()


@pytest.mark.parametrize(
    "wrong", [lambda: Phase(["a"]), lambda: Phase(["a"], 1, 1), lambda: Target(tau=0.0), lambda: Algo(gamma=1.5)]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(Refused):
        wrong()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, r"losses.mine \(Mine\) answers NoneType; an Out"),
        (Out({"value": torch.zeros(())}), "has a term for 'value', its `trains` has policy"),
        (Out({"policy": torch.zeros(3)}), r"its term for 'policy' is a tensor \[3\]; a scalar tensor"),
        (Out({"policy": torch.zeros(())}), "the terms of the losses for 'policy' have no gradient"),
        (Out({"policy": torch.zeros((), requires_grad=True)}, {"loss": 1.0}), "its metric 'loss' is no scalar tensor"),
    ],
)
def test_what_a_loss_must_not_answer_is_told_by_its_name(counting, answer, told):
    class Mine(Cloning):
        def __call__(self, agent, batch):
            return answer

    losses = {"mine": Mine("data")}
    learner = Learner([built(PolicyValue(SIZES), counting, losses)], Algo(PolicyValue(SIZES), losses), 0, CPU)
    with pytest.raises(Refused, match=told):
        learner.step({"data": batch_of(4)}, ["mine"])
