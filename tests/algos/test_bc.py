"""Cloning against the textbook losses, and a clone that has to learn."""

import pytest
import torch
from torch.nn import functional as F

from lfd.agents.actor_critic import Head, Policy
from lfd.algos.bc import Cloning, Error
from lfd.errors import Refused
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, spaces


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_discrete_is_smoothed_cross_entropy(smoothing):
    agent = Policy([8]).build(spaces(VECTOR, TWO))
    logits = agent.distribution(BATCH.obs).logits.double()
    out = answer(Cloning("data", label_smoothing=smoothing), agent, BATCH)
    expected = F.cross_entropy(logits, BATCH.action, label_smoothing=smoothing)
    assert out.terms["policy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.metrics["accuracy"].item() == (logits.argmax(-1) == BATCH.action).double().mean().item()


def test_squared_error_is_of_the_mode():
    agent = Policy([8]).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mode = torch.tanh(agent.nets["policy"].net(batch.obs)[:, :3]).double()
    out = answer(Cloning("data", error=Error.mse), agent, batch)
    expected = ((mode - batch.action.double()) ** 2).sum(-1).mean()
    assert out.terms["policy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.metrics["l1"].item() == pytest.approx((mode - batch.action).abs().mean().item(), rel=1e-5)


def test_absolute_error_is_of_the_mode():
    agent = Policy([8]).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mode = torch.tanh(agent.nets["policy"].net(batch.obs)[:, :3]).double()
    out = answer(Cloning("data", error=Error.l1), agent, batch)
    assert out.terms["policy"].item() == pytest.approx((mode - batch.action).abs().sum(-1).mean().item(), rel=1e-5)


def test_the_entropy_bonus_is_added_and_told():
    agent = Policy([8]).build(spaces(VECTOR, TWO))
    plain, out = (answer(Cloning("data", entropy=weight), agent, BATCH) for weight in (0.0, 0.5))
    entropy = torch.distributions.Categorical(logits=agent.distribution(BATCH.obs).logits).entropy().mean().item()
    assert out.metrics["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert out.terms["policy"].item() == pytest.approx(plain.terms["policy"].item() - 0.5 * entropy, rel=1e-5)
    assert out.metrics["loss"].item() == plain.metrics["loss"].item()  # what is compared with other weights


@pytest.mark.parametrize("head", list(Head))
def test_likelihood_against_torch(head):
    agent = Policy([8], head=head).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    mean, log_std = agent.nets["policy"].net(batch.obs).double().chunk(2, -1)
    mean = mean.tanh() if head is Head.bounded else mean
    policy: torch.distributions.Distribution = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    if head is Head.squashed:
        policy = torch.distributions.TransformedDistribution(policy, torch.distributions.TanhTransform())
    expected = -policy.log_prob(batch.action.double()).sum(-1).mean()
    found = answer(Cloning("data", error=Error.nll), agent, batch).terms["policy"].item()
    assert found == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("head", list(Head))
def test_the_default_moves_the_mean_as_the_squared_error_and_the_spread_as_the_likelihood(head):
    """Gradients with respect to what the network answers, against beta-NLL's by hand."""
    agent = Policy([8], head=head).build(spaces(VECTOR, BOX))
    batch = boxed(BATCH)
    outputs = agent.nets["policy"].net(batch.obs)
    outputs.retain_grad()
    agent.nets["policy"].net.forward = lambda obs: outputs
    answer(Cloning("data"), agent, batch).terms["policy"].backward()
    mean, log_std = outputs.detach().double().chunk(2, -1)
    wanted = batch.action.double().clamp(-(1 - 1e-6), 1 - 1e-6).atanh() if head is Head.squashed else batch.action
    slope = 1 - mean.tanh().square() if head is Head.bounded else 1.0
    error = (mean.tanh() if head is Head.bounded else mean) - wanted
    variance = (2 * log_std.clamp(-5, 2)).exp()
    by_hand = torch.cat([error * slope, variance - error.square()], -1) / len(batch.action)
    torch.testing.assert_close(outputs.grad.double(), by_hand, rtol=1e-4, atol=1e-6)


def test_likelihood_is_finite_for_actions_at_the_bounds():
    agent = Policy([8]).build(spaces(VECTOR, BOX))
    edge = boxed(BATCH).having(action=torch.ones(len(BATCH.action), 3))
    for error in (Error.nll, Error.beta_nll):
        assert torch.isfinite(answer(Cloning("data", error=error), agent, edge).terms["policy"])


def test_smoothing_outside_its_range_is_refused():
    with pytest.raises(Refused, match="label_smoothing is 1.5"):
        Cloning("data", label_smoothing=1.5)
    with pytest.raises(Refused, match="entropy is -1"):
        Cloning("data", entropy=-1.0)
