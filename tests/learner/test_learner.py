"""The gradient step: groups and their optimizers, schedules, target networks, members, and results of losses."""

from dataclasses import dataclass

import pytest
import torch

from lfd.algos import LossOutput, Metrics
from lfd.algos.bc import BC
from lfd.algos.cql import CQLContinuous, CQLDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.ppo import PPO
from lfd.algos.sac import SAC
from lfd.batch import Batch
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner, Phase
from lfd.learner.optim import OptimConfig, Optimizer, OptimizerKind, Target
from lfd.rng import GeneratorRng
from tests import composed
from tests.algos.cases import built

CPU = torch.device("cpu")
SIZES = [8]


def new_agent(config, env, losses, targets=(), seed=0):
    torch.manual_seed(seed)
    return built(config, env.spaces(), *losses.values(), targets=targets)


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
    algo = Algo(composed.q_net(SIZES), losses, **{"targets": {"critic": Target()}, **settings})
    return Learner([new_agent(algo.agent, env, losses, ["critic"])], algo, 0, CPU)


def moved(learner, before, prefix):
    return any(not torch.equal(learner.parameters[name], before[name]) for name in before if name.startswith(prefix))


def frozen_copy(learner):
    return {name: value.detach().clone() for name, value in learner.parameters.items()}


def test_groups_have_separate_optimizers(counting):
    losses = {"ppo": PPO("data")}
    algo = Algo(
        composed.policy_value(SIZES),
        losses,
        optim={"value": OptimConfig(lr=0.0), "policy": OptimConfig(OptimizerKind.sgd, lr=0.1)},
    )
    learner = Learner([new_agent(algo.agent, counting, losses)], algo, 0, CPU)
    before = frozen_copy(learner)
    learner.step({"data": batch_of(16)}, ["ppo"])
    assert moved(learner, before, "nets.policy.") and not moved(learner, before, "nets.value.")
    # One step of SGD follows the gradient, so its size differs from weight to weight; Adam's does not.
    steps = learner.parameters["nets.policy.net.head.0.weight"] - before["nets.policy.net.head.0.weight"]
    assert steps.abs().max() > 2 * steps.abs().median()


@pytest.mark.parametrize("members", [1, 3])
def test_max_grad_norm_clips_groups_member_by_member(counting_continuous, members):
    losses = {"sac": SAC("data"), "gap": CQLContinuous("data", samples=2, target_gap=1.0)}
    names = ("policy", "critic", "multiplier", "temperature")
    algo = Algo(
        composed.soft_policy_critic(SIZES), losses, targets={"critic": Target()},
        optim={name: OptimConfig(OptimizerKind.sgd, lr=1.0, max_grad_norm=0.01) for name in names},
    )  # fmt: skip
    agents = [new_agent(algo.agent, counting_continuous, losses, ["critic"], seed) for seed in range(members)]
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


def test_learning_rate_follows_its_schedule(counting):
    learner = q_learner(
        counting, lr={"start": 0.1, "end": 0.0, "over": 2}, optim={"critic": OptimConfig(OptimizerKind.sgd)}
    )
    for rate in (0.1, 0.05, 0.0, 0.0):
        before = frozen_copy(learner)
        learner.step({"data": batch_of(16)}, ["td"])
        assert learner.optimizers["critic"].lr(learner.step_count - 1) == pytest.approx(rate)
        assert moved(learner, before, "nets.") == (rate > 0)


@pytest.mark.parametrize("kind", list(OptimizerKind))
def test_optimizer_equals_torch_optim(kind):
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.randn(4)]
    config = OptimConfig(kind, lr=0.1, eps=1e-5, weight_decay=0.01, momentum=0.9 if kind is OptimizerKind.sgd else 0.0)
    ours, theirs = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    descent = Optimizer(config, 1.0, ours, 1)
    common = {"lr": 0.1, "weight_decay": 0.01, "fused": True}
    reference = {
        OptimizerKind.adam: lambda: torch.optim.Adam(theirs, eps=1e-5, **common),
        OptimizerKind.adamw: lambda: torch.optim.AdamW(theirs, eps=1e-5, **common),
        OptimizerKind.sgd: lambda: torch.optim.SGD(theirs, momentum=0.9, **common),
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


def test_loss_weight_follows_its_schedule(counting):
    def gradient(weight, steps):
        losses = {"bc": BC("data", weight=weight)}
        algo = Algo(composed.policy_value(SIZES), losses, optim={"policy": OptimConfig(OptimizerKind.sgd, lr=1.0)})
        learner = Learner([new_agent(algo.agent, counting, losses)], algo, 0, CPU)
        learner.step_count = steps
        before = frozen_copy(learner)
        learner.step({"data": batch_of(16)}, ["bc"])
        return torch.cat([(learner.parameters[n] - before[n]).detach().ravel() for n in before])

    weight = {"start": 1.0, "end": 0.0, "over": 4}
    full = gradient(1.0, 0)
    for steps, share in ((0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0), (9, 0.0)):
        torch.testing.assert_close(gradient(weight, steps), share * full)


@pytest.mark.parametrize("members", [1, 2])
def test_step_without_losses_changes_nothing(counting, members):
    losses = {"gap": CQLDiscrete("data")}
    algo = Algo(composed.q_net(SIZES), losses)
    learner = Learner([new_agent(algo.agent, counting, losses, seed=seed) for seed in range(members)], algo, 0, CPU)
    learner.step_count = 1
    before = frozen_copy(learner)
    assert learner.step({}, []) == ({}, {}) and learner.step_count == 2
    assert not moved(learner, before, "")


def test_target_networks_follow_tau_and_update_interval(counting):
    for target, expected in (
        (Target(tau=0.25), [0.25, 0.25, 0.25, 0.25]),
        (Target(tau=0.25, update_interval=2), [0.25, 0.0, 0.25, 0.0]),
        (Target(tau=1, update_interval=2), [0.0, 1.0, 0.0, 1.0]),
    ):
        learner = q_learner(counting, targets={"critic": target})
        for share in expected:
            before = learner.parameters["targets.critic.nets.0.head.0.weight"].detach().clone()
            learner.step({"data": batch_of(16)}, ["td"])
            module = learner.parameters["nets.critic.nets.0.head.0.weight"].detach()
            torch.testing.assert_close(
                learner.parameters["targets.critic.nets.0.head.0.weight"], before.lerp(module, share)
            )


def test_fused_optimizers_handle_transposed_gradients_of_members(counting):
    """They walk the memory of a gradient, so one with the strides of its transpose would be applied transposed."""
    losses = {"td": DQN("data")}
    algo = Algo(composed.q_net([8, 8]), losses, lr=0.1, targets={"critic": Target()})
    agents = [new_agent(algo.agent, counting, losses, ["critic"], seed) for seed in range(3)]
    single = Learner([new_agent(algo.agent, counting, losses, ["critic"], 1)], algo, 0, CPU)
    many = Learner(agents, algo, 0, CPU)
    batches = [batch_of(32, seed) for seed in range(3)]
    many.step({"data": stacked(batches)}, ["td"])
    single.step({"data": batches[1]}, ["td"])
    for name, value in single.parameters.items():
        torch.testing.assert_close(many.parameters[name][1], value, rtol=1e-3, atol=1e-4)


def test_members_remain_separate_agents(counting):
    losses = {"td": DQN("data")}
    algo = Algo(composed.q_net(SIZES), losses, targets={"critic": Target()})
    agents = [new_agent(algo.agent, counting, losses, ["critic"], seed) for seed in range(3)]
    expected = [agent.nets["critic"].nets[0].head[0].weight.detach().clone() for agent in agents]
    learner = Learner(agents, algo, 0, CPU)
    for agent, weight in zip(learner.agents, expected, strict=True):
        assert torch.equal(agent.nets["critic"].nets[0].head[0].weight, weight)
    learner.step({"data": stacked([batch_of(16, seed) for seed in range(3)])}, ["td"])
    stepped = learner.parameters["nets.critic.nets.0.head.0.weight"]
    assert all(
        torch.equal(agent.nets["critic"].nets[0].head[0].weight, stepped[i]) for i, agent in enumerate(learner.agents)
    )
    assert not torch.equal(stepped[0], expected[0])


def test_members_draw_random_numbers_for_batches_of_several_sizes(counting_continuous):
    losses = {"sac": SAC("data")}
    algo = Algo(composed.soft_policy_critic(SIZES), losses, targets={"critic": Target()})
    agents = [new_agent(algo.agent, counting_continuous, losses, ["critic"], seed) for seed in range(2)]
    learner = Learner(agents, algo, 0, CPU)
    for size in (16, 5, 16):
        batch = stacked([batch_of(size, seed, continuous=True) for seed in range(2)])
        out = learner.evaluate(["sac"], {"data": batch}, GeneratorRng(0, members=2))["sac"]
        assert out.metrics.critic_loss.shape == (2,) and torch.isfinite(out.metrics.critic_loss).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Phase(["a"]), "steps: expected either steps or epochs above 0 in a phase, got steps=0 and epochs=0"),
        (lambda: Phase(["a"], 1, 1), "steps: expected either steps or epochs .*, got steps=1 and epochs=1"),
        (lambda: Target(tau=0.0), r"tau: expected a number in \(0, 1\], got 0.0; 1 copies the module"),
        (lambda: Algo(gamma=1.5), r"gamma: expected a discount in \[0, 1\], got 1.5"),
        (lambda: Algo(batch_size=4, sequence_length=8), "sequence_length: expected 1 to batch_size=4, got 8; lower"),
        (lambda: OptimConfig(momentum=1.0), r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda: OptimConfig(max_grad_norm=0.0), "max_grad_norm: expected a number above 0 or null, got 0.0"),
    ],
)
def test_configuration_with_a_wrong_value_is_refused_by_its_key(build, message):
    with pytest.raises(UserError, match=f"^{message}"):
        build()


TERM = torch.zeros((), requires_grad=True)


@dataclass(frozen=True)
class MineMetrics(Metrics):
    mine_loss: torch.Tensor


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, r"losses.mine \(Mine\): expected a LossOutput of terms by group and Metrics, got NoneType"),
        (LossOutput({"policy": TERM}, {"mine_loss": TERM}), "expected a LossOutput .*, got dict"),
        (
            LossOutput({"value": TERM}, Metrics()),
            "expected terms for the groups in `trains`, policy, got one for 'value'; add",
        ),
        (LossOutput({"policy": torch.zeros(3)}, Metrics()), r"term for 'policy', got a tensor \[3\]"),
        (
            LossOutput({"policy": torch.zeros(())}, Metrics()),
            "the terms for 'policy': expected a gradient, got none",
        ),
        (
            LossOutput({"policy": TERM}, MineMetrics(1.0)),
            "expected a scalar tensor as the metric 'mine_loss', got float",
        ),
        (LossOutput({"policy": TERM}, MineMetrics(torch.zeros(2))), r"as the metric 'mine_loss', got a tensor \[2\]"),
        (LossOutput({"policy": TERM}, Metrics(), updates={"nets.mean": TERM}), "updates, got 'nets.mean'; there are"),
    ],
)
def test_loss_with_a_wrong_result_is_refused_by_its_name(counting, result, message):
    class Mine(BC):
        def __call__(self, agent, batch):
            return result

    losses = {"mine": Mine("data")}
    learner = Learner(
        [new_agent(composed.policy_value(SIZES), counting, losses)], Algo(composed.policy_value(SIZES), losses), 0, CPU
    )
    with pytest.raises(UserError, match=message):
        learner.step({"data": batch_of(4)}, ["mine"])
