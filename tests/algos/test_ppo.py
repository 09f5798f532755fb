"""The clipped objective against torch.distributions and a loop over rows."""

import numpy as np
import pytest
import torch

from lfd.algos.ppo import PPO
from tests import composed
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, spaces


def clipped(ratio: float, advantage: float, clip: float) -> float:
    return min(ratio * advantage, float(np.clip(ratio, 1 - clip, 1 + clip)) * advantage)


@pytest.mark.parametrize("continuous", [False, True])
def test_ppo_terms_and_kl_equal_a_loop_over_rows(continuous):
    batch = boxed(BATCH) if continuous else BATCH
    agent = composed.policy_value([8]).build(spaces(VECTOR, BOX if continuous else TWO))
    outputs = agent.nets["policy"].net(batch.obs).detach().double()
    if continuous:
        policy = torch.distributions.Independent(torch.distributions.Normal(outputs, torch.ones(3).double()), 1)
    else:
        policy = torch.distributions.Categorical(logits=outputs)
    new = policy.log_prob(batch.action.double() if continuous else batch.action).numpy()
    old = new - np.linspace(-0.5, 0.5, len(new))
    advantage = batch.advantage.double().numpy()
    normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = np.exp(new - old)
    surrogate = np.mean([clipped(r, a, 0.2) for r, a in zip(ratio, normal, strict=True)])
    value = agent.nets["value"](batch.obs).detach().double().numpy()
    error = 0.5 * np.mean((value - batch.value_target.double().numpy()) ** 2)
    loss = PPO("data", ent_coef=0.1, vf_coef=0.7)
    out = answer(loss, agent, batch.having(log_prob=torch.from_numpy(old).float()))
    assert out.by_group["policy"].item() == pytest.approx(-surrogate - 0.1 * policy.entropy().mean().item(), rel=1e-4)
    assert out.by_group["value"].item() == pytest.approx(0.7 * error, rel=1e-5)
    assert out.feedback["kl"].item() == pytest.approx(np.mean(ratio - 1 - np.log(ratio)), rel=1e-3)


def test_ppo_has_no_gradient_above_the_clip_range():
    agent = composed.policy_value([8]).build(spaces(VECTOR, TWO))
    new = agent.policy(BATCH.obs).log_prob(BATCH.action).detach()
    batch = BATCH.having(log_prob=new - 1.0, advantage=torch.ones(len(new)))
    out = answer(PPO("data", normalize_advantage=False), agent, batch)
    gradients = torch.autograd.grad(out.by_group["policy"], list(agent.nets["policy"].parameters()), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)
