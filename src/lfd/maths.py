"""Equations: pure functions of tensors, each with its source."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """r + discount * V(s'): `discount` is gamma^n and 0 after a termination, not after a truncation. All [B]."""
    _same_shape(reward, discount, next_value)
    return (reward + discount * next_value).detach()


def over_critics(reduce: Callable[[Tensor, int], Tensor], values: Tensor, dim: int = -1) -> Tensor:
    """Reduces the axis of critics, by `torch.mean` for instance; a single one needs a view and no operation."""
    return values.squeeze(dim) if values.shape[dim] == 1 else reduce(values, dim)


def critic_mse(values: Tensor, target: Tensor) -> Tensor:
    """Squared errors of values [B, K] from targets [B], averaged over the batch and summed over K critics -> []."""
    return (values - target.unsqueeze(-1)).square().mean(0).sum()


def gather_action(values: Tensor, action: Tensor) -> Tensor:
    """values [B, ..., A] at the actions int64 [B] -> [B, ...]."""
    index = action.reshape(*action.shape, *[1] * (values.dim() - action.dim()))
    if index.shape[:-1] != values.shape[:-1]:
        index = index.expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16), all inputs [T, N], result [T, N].

    A termination stops the bootstrap; the end of an episode, be it termination or truncation, stops the trace.
    `next_value` is the value of the true successor: a truncated step bootstraps from its last observation.
    """
    _same_shape(reward, value, next_value, terminated, done)
    delta = reward + gamma * next_value * ~terminated - value
    keep = gamma * lam * (~done).float()
    advantage = torch.empty_like(delta)
    trace = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        trace = delta[t] + keep[t] * trace
        advantage[t] = trace
    return advantage


def n_step(reward: Tensor, terminated: Tensor, last: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The n-step return of windows [B, n] of consecutive steps.

    `last` marks steps that end a window (the end of an episode or of the data); later steps are ignored.

    Returns:
        The sum of discounted rewards, the discount of the bootstrap (0 if the window terminated) and the number of
        steps, each [B].
    """
    _same_shape(reward, terminated, last)
    ended_before = F.pad(last.long().cumsum(1), (1, 0))[:, :-1] > 0
    powers = gamma ** torch.arange(reward.shape[1], device=reward.device, dtype=reward.dtype)
    num_steps = (~ended_before).sum(1)
    summed = (torch.where(ended_before, 0.0, reward) * powers).sum(1)
    alive = ~(terminated & ~ended_before).any(1)
    return summed, alive * gamma ** num_steps.to(reward.dtype), num_steps


def conservative_gap(values: Tensor, data_value: Tensor, log_density: Tensor | float, temperature: float) -> Tensor:
    """Soft maximum over actions less the value of the data's action (Kumar et al. 2020, eq. 4).

    Args:
        values: [B, K] of K actions.
        data_value: [B] of the data's action.
        log_density: [B, K] of the distribution that proposed each action, an importance weight (appendix F); 0 if all
            actions are listed.

    Returns:
        [B].
    """
    soft_maximum = temperature * torch.logsumexp(values / temperature - log_density, dim=-1)
    _same_shape(soft_maximum, data_value)
    return soft_maximum - data_value


def expectile(error: Tensor, level: float) -> Tensor:
    """|level - 1{u < 0}| u^2 of errors u [B] -> [B]; its minimum is the expectile (Kostrikov et al. 2022, eq. 5)."""
    return (level - (error < 0).to(error.dtype)).abs() * error.square()


def exp_advantage_weight(exponent: Tensor, largest: float) -> Tensor:
    """min(exp(x), largest) of scaled advantages x [B] -> [B], the weights of cloned actions; a constant to autograd."""
    return exponent.detach().exp().clamp(max=largest)


def quantile_huber(quantiles: Tensor, target: Tensor, kappa: float) -> Tensor:
    """sum_i mean_j |tau_i - 1{u_ij < 0}| huber(u_ij) / kappa, u_ij = target_j - quantile_i, tau_i = (2i - 1) / 2N.

    Equation 10 of Dabney et al. 2018; quantiles [B, N], target [B, M] -> [B], no gradient to the target. The huber
    function on one side of 0 is the difference of two squared hinges, (u+)^2 / 2 - ((u - kappa)+)^2 / 2, and a sum of
    hinges over j needs only the count, sum and sum of squares of the targets beyond the corner. With the targets sorted
    these are looked up: N log M steps, where the pairs would be N M. In float64: differences of squares would lose the
    digits of kappa in float32 where returns spread widely.
    """
    center = target.detach().double().mean(-1, keepdim=True)  # sums of squares about it keep their digits
    ordered = (target.detach() - center).sort(-1).values
    sums, squares = (F.pad(moment.cumsum(-1), (1, 0)) for moment in (ordered, ordered.square()))

    def hinges(corner: Tensor) -> tuple[Tensor, Tensor]:
        """Of each corner [B, N], sum_j ((corner - target_j)+)^2 and sum_j ((target_j - corner)+)^2."""
        count = torch.searchsorted(ordered, corner.detach())
        first, second = sums.gather(-1, count), squares.gather(-1, count)
        below = count * corner.square() - 2 * first * corner + second
        rest = ordered.shape[-1] - count
        return below, rest * corner.square() - 2 * (sums[..., -1:] - first) * corner + squares[..., -1:] - second

    at = quantiles - center
    below, above = hinges(at)
    above = above - hinges(at + kappa)[1]
    below = below - hinges(at - kappa)[0]
    number = quantiles.shape[-1]
    level = (torch.arange(number, device=at.device, dtype=at.dtype) + 0.5) / number
    summed = (level * above + (1 - level) * below).sum(-1) / (2 * kappa * ordered.shape[-1])
    return summed.to(quantiles.dtype)


def soft_clipped_q(values: Tensor, lmbda: float) -> Tensor:
    """lambda * min + (1 - lambda) * max over critics [..., critics] -> [...] (Fujimoto et al. 2019, eq. 13)."""
    return lmbda * values.amin(-1) + (1 - lmbda) * values.amax(-1)


def bcq_action_mask(logits: Tensor, threshold: float) -> Tensor:
    """bool [..., A] of logits [..., A]: p(a) / max p > threshold (Fujimoto et al. 2019, discrete BCQ, eq. 8)."""
    odds = logits - logits.amax(-1, keepdim=True)
    return odds > math.log(threshold) if threshold > 0 else torch.ones_like(odds, dtype=torch.bool)


def kl_to_standard(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, exp(log_std)^2) || N(0, 1)) of each number, all [B, A] (Kingma and Welling 2014, appendix B)."""
    return -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp())


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic objective, to be maximized (Schulman et al. 2017, eq. 7). All [B]."""
    _same_shape(ratio, advantage)
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def smoothed_action(action: Tensor, normal: Tensor, sigma: float, clip: float) -> Tensor:
    """Target policy smoothing (Fujimoto et al. 2018, section 5.3) of actions in [-1, 1] by normal samples, [B, A]."""
    _same_shape(action, normal)
    return (action + (sigma * normal).clamp(-clip, clip)).clamp(-1, 1)


def pairwise_cosine(vectors: Tensor) -> Tensor:
    """sum over i != j of cos(v_i, v_j) / (N - 1), of N vectors [N, B, A] -> [B]; 0 for N = 1.

    J_ES of An et al. 2021: divided by N - 1, not by the number of pairs.
    """
    # A critic may be flat in its action: the small number keeps the derivative of a zero vector finite.
    unit = vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-20)
    # The squared length of the sum has every pair twice, and each vector with itself.
    pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, -1))
    return pairs / max(len(vectors) - 1, 1)


def discriminator_loss(learner: Tensor, expert: Tensor) -> Tensor:
    """-E log D(expert) - E log(1 - D(learner)) of logits of D, [B] each -> [] (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(learner).mean() + F.softplus(-expert).mean()


def discriminator_accuracy(learner: Tensor, expert: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the expert's and of the learner's logits [B] that have the right sign -> [], []."""
    return (expert > 0).float().mean(), (learner < 0).float().mean()


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value [] of a matrix [M, N], by 128 steps of power iteration (Miyato et al. 2018).

    The steps are seven squarings of the smaller Gram matrix; the gradient takes the singular vectors as constants.
    """
    with torch.no_grad():
        wide = weight if weight.shape[0] <= weight.shape[1] else weight.mT
        power = wide @ wide.mT
        for _ in range(7):
            power = power / (power.abs().amax((-2, -1), keepdim=True) + 1e-30)
            power = power @ power
        # A matrix of one column: products with vectors cannot be recorded.
        start = torch.arange(1, len(wide) + 1, device=weight.device, dtype=weight.dtype).cos().unsqueeze(-1)
        short = F.normalize(power @ start, dim=0, eps=1e-30)
        long = F.normalize(wide.mT @ short, dim=0, eps=1e-30)
        left, right = (short, long) if wide is weight else (long, short)
    # A matrix of zeros has the value 0, by which a caller would divide.
    return (left.mT @ weight @ right).squeeze() + 1e-12


def gaussian_log_prob(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(value; mean, exp(log_std)^2), all [..., A], summed over the last axis -> [...]."""
    z = (value - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def beta_nll(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Beta-NLL [...] of values [..., A] for beta = 1: the sum over A of sigma^2 (z^2 / 2 + log sigma).

    The mean and the log of sigma are [..., A]; the factor sigma^2 is a constant to autograd.

    Equation 5 of Seitzer et al. 2022, up to a constant: the gradient of the mean is that of half the squared error.
    """
    z = (value - mean) * torch.exp(-log_std)
    return ((2 * log_std.detach()).exp() * (0.5 * z.square() + log_std)).sum(-1)


def tanh_correction(pre_tanh: Tensor) -> Tensor:
    """sum log|d tanh(u)/du|, [..., A] -> [...], in a form without underflow (Haarnoja et al. 2018, appendix C)."""
    return (2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))).sum(-1)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel samples from uniform ones, of any shape: argmax(logits + gumbel) samples the categorical."""
    tiny = torch.finfo(uniform.dtype).tiny
    exponential = -torch.log(uniform.clamp_min(tiny))
    return -torch.log(exponential.clamp_min(tiny))


def _same_shape(first: Tensor, *others: Tensor) -> None:
    for other in others:
        if other.shape != first.shape:
            raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(other.shape)}")
