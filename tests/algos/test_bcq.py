"""BCQ, discrete and continuous, against its equations in float64, and how its agents choose."""

import copy

import numpy as np
import pytest
import torch

from lfd.agents.distributions import Categorical
from lfd.algos.bcq import BCQContinuous, BCQDiscrete
from lfd.rng import GeneratorRng, ReplayedRng
from tests import composed
from tests.algos.cases import BATCH, BOX, TWO, VECTOR, answer, boxed, by_hand, drawn, float64, spaces, stir


def discrete(threshold=0.3):
    agent = composed.bcq_discrete([8], threshold=threshold).build(spaces(VECTOR, TWO))
    stir(agent.nets, 2, 1.0)
    agent.add_target_networks(["critic"])
    stir(agent.targets, 1)
    return agent


def outputs(nets, obs):
    """Values and logits of the imitation, in float64."""
    return by_hand(nets["critic"].nets[0], float64(obs)), by_hand(nets["imitation"].net, float64(obs))


def allowed(logits: np.ndarray, threshold: float) -> np.ndarray:
    probability = np.exp(logits) / np.exp(logits).sum()
    return probability / probability.max() > threshold


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_discrete_bcq_terms_row_by_row(threshold):
    agent = discrete(threshold)
    values, logits = outputs(agent.nets, BATCH.obs)
    next_values, next_logits = outputs(agent.nets, BATCH.next_obs)
    slow = by_hand(agent.targets["critic"].nets[0], float64(BATCH.next_obs))
    values_error, cloning, restricted = 0.0, 0.0, 0
    for i, action in enumerate(BATCH.action.tolist()):
        kept = [a for a in range(2) if allowed(next_logits[i], threshold)[a]]
        restricted += len(kept) < 2
        best = max(kept, key=lambda a: next_values[i, a])
        u = values[i, action] - (float(BATCH.reward[i]) + float(BATCH.discount[i]) * slow[i, best])
        huber = 0.5 * u * u if abs(u) < 1 else abs(u) - 0.5
        nll = -np.log(np.exp(logits[i, action]) / np.exp(logits[i]).sum())
        values_error += huber / len(BATCH.action)
        cloning += (nll + 0.01 * np.mean(logits[i] ** 2)) / len(BATCH.action)
    assert (restricted > 0) is (threshold > 0)
    out = answer(BCQDiscrete("data"), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx(values_error, rel=1e-5)
    assert out.by_group["imitation"].item() == pytest.approx(cloning, rel=1e-5)


def test_discrete_bcq_acts_by_value_among_likely_actions():
    agent = discrete()
    chosen = []
    for logits, values in [((0.0, 0.0), (1.0, 2.0)), ((9.0, 0.0), (1.0, 2.0)), ((0.0, 9.0), (-5.0, -9.0))]:
        outputs = {"critic": torch.tensor([[values]]), "imitation": Categorical(torch.tensor([logits]))}
        agent.net = lambda name, *inputs, outputs=outputs, target=False: outputs[name]
        chosen.append(agent.act(BATCH.obs[:1], (), None)[0].item())
    # both are likely; only the worse is; only the worse is, and values below 0 do not let the other back in
    assert chosen == [1, 0, 1]


def continuous(**spec):
    agent = composed.bcq_continuous(**{"hidden": [8], "candidates": 5} | spec).build(spaces(VECTOR, BOX))
    stir(agent.nets, 2)
    agent.add_target_networks(["critic", "perturbation"])
    stir(agent.targets, 1, 0.5)
    return agent


def run(loss, agent, batch):
    """The loss and the draws that it used."""
    draws = drawn(loss, agent, batch)
    return answer(loss, agent, batch, ReplayedRng(draws)), draws


def decode(agent, obs, normal):
    """One action of the VAE's decoder in float64, its latent vector cut at 0.5."""
    latent = normal.double().clamp(-0.5, 0.5)
    return torch.tanh(copy.deepcopy(agent.nets["vae"]).double().decoder(obs.double(), latent))


def perturb(net, obs, action):
    moved = action + 0.05 * torch.tanh(copy.deepcopy(net.net).double()(obs.double(), action))
    return moved.clamp(-1, 1)


def critics(net, obs, action):
    return copy.deepcopy(net).double()(obs.double(), action.double())[0]


def test_continuous_bcq_terms_row_by_row():
    batch, agent, samples = boxed(BATCH), continuous(), 3
    out, (next_noise, vae_noise, policy_noise) = run(BCQContinuous("data", samples=samples), agent, batch)
    td = reconstruction = divergence = ascent = 0.0
    vae = copy.deepcopy(agent.nets["vae"]).double()
    with torch.no_grad():
        for i in range(len(batch.action)):
            one = slice(i, i + 1)
            obs, following, action = batch.obs[one], batch.next_obs[one], batch.action[one].double()
            bootstraps = []
            for k in range(samples):
                # by the target network of the perturbation, not straight from the decoder
                moved = perturb(agent.targets["perturbation"], following, decode(agent, following, next_noise[k, one]))
                q = critics(agent.targets["critic"], following, moved)
                bootstraps.append(0.75 * q.min() + 0.25 * q.max())
            target = batch.reward[i].double() + batch.discount[i].double() * max(bootstraps)
            td += sum((q - target) ** 2 for q in critics(agent.nets["critic"], obs, action))
            mean, log_std = vae.encoder(obs.double(), action)[0].chunk(2)
            normal = torch.distributions.Normal(mean, log_std.exp())
            returned = torch.tanh(vae.decoder(obs.double(), (mean + log_std.exp() * vae_noise[i])[None]))
            reconstruction += ((returned - action) ** 2).mean()
            divergence += torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
            own = perturb(agent.nets["perturbation"], obs, decode(agent, obs, policy_noise[one]))
            ascent += critics(agent.nets["critic"], obs, own)[0]
    size = len(batch.action)
    assert out.by_group["critic"].item() == pytest.approx(td.item() / size, rel=1e-5)
    assert out.by_group["vae"].item() == pytest.approx((reconstruction + 0.5 * divergence).item() / size, rel=1e-5)
    assert out.by_group["perturbation"].item() == pytest.approx(-ascent.item() / size, rel=1e-5)


def test_continuous_bcq_uses_the_target_perturbation_and_stops_at_terminations():
    batch, loss = boxed(BATCH), BCQContinuous("data", samples=3)
    agent = continuous(phi=1.0)
    before = run(loss, agent, batch)[0].by_group["critic"]
    ended = batch.having(discount=torch.zeros(len(batch.action)))
    alone = run(loss, agent, ended)[0].by_group["critic"]
    stir(agent.targets["perturbation"], 9, 2.0)
    assert run(loss, agent, batch)[0].by_group["critic"].item() != pytest.approx(before.item(), rel=1e-3)
    assert torch.equal(run(loss, agent, ended)[0].by_group["critic"], alone)


def test_continuous_bcq_acts_by_the_best_candidate_of_the_first_critic():
    agent = continuous(candidates=20)
    obs = BATCH.obs
    seen = []
    agent.nets["perturbation"].register_forward_hook(lambda module, inputs, action: seen.append(action))
    chosen, _ = agent.act(obs, (), None)
    for row in range(len(obs)):
        values = [agent.nets["critic"](obs[row : row + 1], seen[0][k, row : row + 1])[0, 0].item() for k in range(20)]
        torch.testing.assert_close(chosen[row], agent.to_space(seen[0][int(np.argmax(values)), row]))
    assert len({candidate for candidate in seen[0][:, 0, 0].tolist()}) == 20


def test_greedy_continuous_bcq_is_deterministic_and_independent_of_the_batch():
    agent = continuous()
    first, _ = agent.act(BATCH.obs, (), None)
    again, _ = agent.act(BATCH.obs[2:5], (), None)
    torch.testing.assert_close(again, first[2:5])
    noise = GeneratorRng(0)
    assert not torch.equal(agent.act(BATCH.obs, (), noise)[0], agent.act(BATCH.obs, (), noise)[0])
    restored = continuous()
    torch.manual_seed(99)
    restored.rule.latents.normal_()
    restored.load_state_dict(agent.state_dict())
    assert torch.equal(restored.act(BATCH.obs, (), None)[0], first)
