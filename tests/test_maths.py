"""Every equation against numbers worked out by hand or in float64."""

import math

import numpy as np
import pytest
import torch

from lfd.maths import (
    bcq_action_mask,
    clipped_surrogate,
    conservative_gap,
    critic_mse,
    exp_advantage_weight,
    expectile,
    gae,
    gather_action,
    gaussian_log_prob,
    gumbel,
    kl_to_standard,
    n_step,
    pairwise_cosine,
    quantile_huber,
    smoothed_action,
    soft_clipped_q,
    spectral_norm,
    tanh_correction,
    td_target,
)


def test_td_target_bootstraps_after_truncation_only():
    # discount is 0 after a termination and gamma after a truncation: that is all the target knows of endings
    target = td_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.9]), torch.tensor([10.0, 10.0]))
    assert target.tolist() == [1.0, 10.0]


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        td_target(torch.zeros(4, 1), torch.zeros(4), torch.zeros(4))


def test_critic_mse_is_a_mean_over_rows_and_a_sum_over_critics():
    # errors of the first critic are 1 and -3, of the second 2 and 0: (1 + 9) / 2 + (4 + 0) / 2
    values, target = torch.tensor([[2.0, 3.0], [1.0, 4.0]]), torch.tensor([1.0, 4.0])
    assert critic_mse(values, target).item() == 7.0


def test_gather_action_picks_one_value_of_each_row():
    assert gather_action(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])).tolist() == [2.0, 3.0]


def test_gae_by_hand():
    # one environment, gamma 0.5, lambda 0.5; step 1 is truncated (bootstrapped, trace cut), step 2 terminates
    reward = torch.tensor([[1.0], [2.0], [3.0]])
    value = torch.tensor([[4.0], [5.0], [6.0]])
    following = torch.tensor([[5.0], [8.0], [100.0]])
    terminated = torch.tensor([[False], [False], [True]])
    done = torch.tensor([[False], [True], [True]])
    # deltas: 1 + 2.5 - 4 = -0.5; 2 + 4 - 5 = 1; 3 - 6 = -3.  traces: -0.5 + 0.25 * 1; 1; -3
    assert gae(reward, value, following, terminated, done, 0.5, 0.5).squeeze(1).tolist() == [-0.25, 1.0, -3.0]


def test_n_step_by_hand():
    reward = torch.tensor([[1.0, 2.0, 4.0]] * 4)
    none = [False, False, False]
    terminated = torch.tensor([none, [False, True, False], none, none])
    last = torch.tensor([none, [False, True, False], [False, True, False], [True, True, True]])
    summed, discount, steps = n_step(reward, terminated, last, 0.5)
    # whole window; terminated after two; truncated after two; the data ends after one
    assert summed.tolist() == [3.0, 2.0, 2.0, 1.0]
    assert discount.tolist() == [0.125, 0.0, 0.25, 0.5]
    assert steps.tolist() == [3, 2, 2, 1]


def test_conservative_gap_of_listed_actions():
    values = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    expected = math.log(math.e + math.e**3) - 1.0
    assert conservative_gap(values, values[:, 0], 0.0, 1.0).item() == pytest.approx(expected, rel=1e-12)


def test_conservative_gap_temperature_approaches_the_maximum():
    values = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    assert conservative_gap(values, values[:, 0], 0.0, 1e-3).item() == pytest.approx(2.0, abs=1e-6)


def test_conservative_gap_is_corrected_by_density():
    # importance sampling: sum_k exp(q_k) / p_k
    values = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    density = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    expected = math.log(math.e / 0.5 + math.e**2 / 0.25)
    gap = conservative_gap(values, torch.zeros(1, dtype=torch.float64), density.log(), 1.0)
    assert gap.item() == pytest.approx(expected, rel=1e-12)


def pairwise_quantile_huber(quantiles, target, kappa):
    """The definition: every pair of a quantile and a target."""
    level = (torch.arange(quantiles.shape[-1], dtype=torch.float64) + 0.5) / quantiles.shape[-1]
    error = target.unsqueeze(-2) - quantiles.unsqueeze(-1)  # [B, N, M]
    huber = torch.where(error.abs() <= kappa, error.square() / 2, kappa * (error.abs() - kappa / 2))
    return ((level.unsqueeze(-1) - (error < 0).double()).abs() * huber / kappa).mean(-1).sum(-1)


def test_quantile_huber_by_hand():
    # one quantile, of level 0.5: errors 0.5 (squared part) and -3 (linear part)
    loss = quantile_huber(torch.tensor([[1.0]]), torch.tensor([[1.5, -2.0]]), 1.0)
    assert loss.tolist() == pytest.approx([0.5 * (0.125 + 2.5) / 2])


@pytest.mark.parametrize("kappa", [1.0, 0.25])
@pytest.mark.parametrize("offset", [0.0, 500.0])
def test_quantile_huber_is_that_of_all_pairs(kappa, offset):
    generator = torch.Generator().manual_seed(0)
    quantiles = 3 * torch.randn(4, 6, generator=generator) + offset
    target = 2 * torch.randn(4, 9, generator=generator) + offset
    target[0, :6] = quantiles[0]  # ties, and corners on both sides of them
    target[1, :6] = quantiles[1] + kappa
    wide = quantiles.double().requires_grad_()
    expected = pairwise_quantile_huber(wide, target.double(), kappa)
    quantiles.requires_grad_()
    loss = quantile_huber(quantiles, target, kappa)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss.sum(), quantiles)
    (exact,) = torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spread", [1e2, 1e5])
def test_quantile_huber_keeps_its_digits_where_returns_spread_widely(spread):
    rng = torch.Generator().manual_seed(0)
    quantiles, target = (spread * torch.randn(8, 50, generator=rng) for _ in range(2))
    target[:, :25] = quantiles[:, :25] + 0.5  # within kappa
    wide, narrow = quantiles.double().requires_grad_(), quantiles.requires_grad_()
    (exact,) = torch.autograd.grad(pairwise_quantile_huber(wide, target.double(), 1.0).sum(), wide)
    (gradient,) = torch.autograd.grad(quantile_huber(narrow, target, 1.0).sum(), narrow)
    assert (gradient - exact).abs().max() < 1e-5 * exact.abs().mean()


def test_soft_clipped_q_by_hand():
    assert soft_clipped_q(torch.tensor([[1.0, 5.0, 3.0]]), 0.75).tolist() == [0.75 * 1 + 0.25 * 5]


def test_bcq_action_mask_is_relative_to_the_likeliest_action():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log() + 7.0
    assert bcq_action_mask(logits, 0.4).tolist() == [[True, True, False]]
    assert bcq_action_mask(logits, 0.6).tolist() == [[True, False, False]]
    assert bcq_action_mask(torch.tensor([[0.0, -torch.inf]]), 0.0).tolist() == [[True, True]]


def test_kl_to_standard_against_torch():
    mean, log_std = torch.tensor([0.3, -2.0]), torch.tensor([-1.0, 0.5])
    one, other = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl_to_standard(mean, log_std), torch.distributions.kl_divergence(one, other))


def test_clipped_surrogate_is_pessimistic_on_both_sides():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clipped_surrogate(ratio, advantage, 0.2).tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8])


def test_smoothed_action_clips_noise_and_action():
    action, normal = torch.tensor([[0.0, 0.0, 0.9]]), torch.tensor([[1.0, -9.0, 9.0]])
    assert smoothed_action(action, normal, 0.2, 0.5).tolist() == [pytest.approx([0.2, -0.5, 1.0])]


def test_pairwise_cosine_by_pairs():
    vectors = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    every_pair = [
        np.dot(v, w) / (np.linalg.norm(v) * np.linalg.norm(w))
        for i, v in enumerate(vectors[:, 2].numpy())
        for j, w in enumerate(vectors[:, 2].numpy())
        if i != j
    ]
    assert pairwise_cosine(vectors)[2].item() == pytest.approx(sum(every_pair) / 3, rel=1e-12)


def test_pairwise_cosine_of_parallel_opposite_and_single_vectors():
    one = torch.tensor([[0.3, -2.0]])
    assert pairwise_cosine(torch.stack([one, 5 * one, 2 * one])).tolist() == pytest.approx([3.0])
    assert pairwise_cosine(torch.stack([one, -one])).tolist() == pytest.approx([-2.0])
    assert pairwise_cosine(one.unsqueeze(0)).tolist() == pytest.approx([0.0])


def test_pairwise_cosine_of_a_flat_critic_has_a_finite_derivative():
    vectors = torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_cosine(vectors).sum(), vectors)
    assert torch.isfinite(gradient).all()


def test_gaussian_log_prob_against_torch():
    generator = torch.Generator().manual_seed(0)
    x, mean, log_std = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_prob(x, mean, log_std), expected)


def test_tanh_correction_where_the_naive_form_underflows():
    u = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    torch.testing.assert_close(tanh_correction(u), torch.log(1 - torch.tanh(u) ** 2).squeeze(-1))
    assert torch.isfinite(tanh_correction(torch.tensor([[40.0]]))).all()


def test_gumbel_samples_the_categorical():
    logits = torch.tensor([0.0, math.log(3.0)])
    uniform = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    share = (logits + gumbel(uniform)).argmax(-1).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.015)
    assert np.isfinite(gumbel(torch.zeros(3)).numpy()).all()


def test_expectile_by_hand():
    # overestimates of the target (u < 0) count 1 - level, underestimates level
    assert expectile(torch.tensor([2.0, -2.0, 0.0]), 0.75).tolist() == [3.0, 1.0, 0.0]


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_expectile_minimum_balances_both_sides(level):
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=2_000))
    grid = torch.linspace(-1, 2, 3_001, dtype=torch.float64)
    best = grid[torch.stack([expectile(drawn - at, level).mean() for at in grid]).argmin()]
    above, below = (drawn - best).clamp(min=0).mean(), (best - drawn).clamp(min=0).mean()
    assert level * above.item() == pytest.approx((1 - level) * below.item(), rel=0.01)


def test_exp_advantage_weight_is_a_finite_constant():
    exponent = torch.tensor([-1e6, 0.0, math.log(3.0), 2.0, 1e6], requires_grad=True)
    weight = exp_advantage_weight(exponent, 5.0)
    assert weight.tolist() == pytest.approx([0.0, 1.0, 3.0, 5.0, 5.0]) and not weight.requires_grad


@pytest.mark.parametrize("shape", [(64, 64), (5, 40), (40, 5), (1, 8), (8, 1), (3, 3)])
def test_spectral_norm_equals_the_largest_singular_value(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    found, expected = spectral_norm(weight), torch.linalg.matrix_norm(weight, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    (slope,), (exact,) = (torch.autograd.grad(value, weight) for value in (found, expected))
    torch.testing.assert_close((slope * exact).sum(), torch.ones((), dtype=torch.float64), rtol=0.05, atol=0)


def test_spectral_norm_of_zeros_is_above_0():
    assert 0 < spectral_norm(torch.zeros(3, 4)) < 1e-6
