"""Cloning against the textbook losses, and a clone that has to learn."""

import pytest
import torch
from torch.nn import functional as F

from lfd.agents.nets import Head
from lfd.algos.bc import BC, BCObjective
from lfd.errors import UserError
from tests import composed
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, spaces

# what a Gaussian policy of the network is: `Head` without the policy that has no spread
GAUSSIANS = pytest.mark.parametrize("head", [head for head in Head if head is not Head.deterministic])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_discrete_bc_is_smoothed_cross_entropy(smoothing):
    agent = composed.policy([8]).build(spaces(VECTOR, TWO))
    logits = agent.policy(BATCH.obs).logits.double()
    out = answer(BC("data", label_smoothing=smoothing), agent, BATCH)
    expected = F.cross_entropy(logits, BATCH.action, label_smoothing=smoothing)
    assert out.by_group["policy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.metrics.accuracy.item() == (logits.argmax(-1) == BATCH.action).double().mean().item()


def test_mse_is_of_the_mode():
    agent = composed.policy([8]).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mode = torch.tanh(agent.nets["policy"].net(batch.obs)[:, :3]).double()
    out = answer(BC("data", error=BCObjective.mse), agent, batch)
    expected = ((mode - batch.action.double()) ** 2).sum(-1).mean()
    assert out.by_group["policy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.metrics.mae.item() == pytest.approx((mode - batch.action).abs().mean().item(), rel=1e-5)


def test_l1_is_of_the_mode():
    agent = composed.policy([8]).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mode = torch.tanh(agent.nets["policy"].net(batch.obs)[:, :3]).double()
    out = answer(BC("data", error=BCObjective.l1), agent, batch)
    assert out.by_group["policy"].item() == pytest.approx((mode - batch.action).abs().sum(-1).mean().item(), rel=1e-5)


def test_entropy_bonus_is_added_and_logged():
    agent = composed.policy([8]).build(spaces(VECTOR, TWO))
    plain, out = (answer(BC("data", ent_coef=weight), agent, BATCH) for weight in (0.0, 0.5))
    entropy = torch.distributions.Categorical(logits=agent.policy(BATCH.obs).logits).entropy().mean().item()
    assert out.metrics.entropy.item() == pytest.approx(entropy, rel=1e-5)
    assert out.by_group["policy"].item() == pytest.approx(plain.by_group["policy"].item() - 0.5 * entropy, rel=1e-5)
    assert out.metrics.bc_loss.item() == plain.metrics.bc_loss.item()  # what is compared with other weights


@GAUSSIANS
def test_nll_equals_torch(head):
    agent = composed.policy([8], head=head).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mean, log_std = agent.nets["policy"].net(batch.obs).double().chunk(2, -1)
    mean = mean.tanh() if head is Head.tanh_mean_gaussian else mean
    policy: torch.distributions.Distribution = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    if head is Head.tanh_gaussian:
        policy = torch.distributions.TransformedDistribution(policy, torch.distributions.TanhTransform())
    expected = -policy.log_prob(batch.action.double()).sum(-1).mean()
    found = answer(BC("data", error=BCObjective.nll), agent, batch).by_group["policy"].item()
    assert found == pytest.approx(expected.item(), rel=1e-4)


@GAUSSIANS
def test_beta_nll_moves_the_mean_like_mse_and_the_spread_like_nll(head):
    """Gradients with respect to what the network answers, against beta-NLL's by hand."""
    agent = composed.policy([8], head=head).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    outputs = agent.nets["policy"].net(batch.obs)
    outputs.retain_grad()
    agent.nets["policy"].net.forward = lambda obs: outputs
    answer(BC("data"), agent, batch).by_group["policy"].backward()
    mean, log_std = outputs.detach().double().chunk(2, -1)
    wanted = batch.action.double().clamp(-(1 - 1e-6), 1 - 1e-6).atanh() if head is Head.tanh_gaussian else batch.action
    slope = 1 - mean.tanh().square() if head is Head.tanh_mean_gaussian else 1.0
    error = (mean.tanh() if head is Head.tanh_mean_gaussian else mean) - wanted
    variance = (2 * log_std.clamp(-5, 2)).exp()
    by_hand = torch.cat([error * slope, variance - error.square()], -1) / len(batch.action)
    torch.testing.assert_close(outputs.grad.double(), by_hand, rtol=1e-4, atol=1e-6)


def test_nll_is_finite_for_actions_at_the_bounds():
    agent = composed.policy([8]).build(spaces(VECTOR, BOX))
    edge = boxed(BATCH).having(action=torch.ones(len(BATCH.action), 3))
    for error in (BCObjective.nll, BCObjective.beta_nll):
        assert torch.isfinite(answer(BC("data", error=error), agent, edge).by_group["policy"])


def test_bc_with_a_wrong_value_is_refused_by_its_key():
    with pytest.raises(UserError, match=r"^label_smoothing: expected a fraction in \[0, 1\), got 1.5$"):
        BC("data", label_smoothing=1.5)
    with pytest.raises(UserError, match="^ent_coef: expected 0 or more, got -1"):
        BC("data", ent_coef=-1.0)
