"""Critic regularized regression against its equations, alone and with CQL."""

import math

import pytest
import torch

from lfd.algos.cql import CQLDiscrete
from lfd.algos.crr import CRR, Filter
from lfd.errors import UserError
from lfd.learner.learner import Algo, Learner
from lfd.learner.optim import Target
from tests import composed
from tests.algos.cases import BATCH, FRAMES, TWO, VECTOR, answer, batch, by_hand, float64, gradients, spaces, stirred

SLOW = ["policy", "critic"]


@pytest.fixture
def agent():
    return stirred(composed.policy_q([8]).build(spaces(VECTOR, TWO)), SLOW)


def outputs(modules, obs):
    """Probabilities and action values of each row, in float64."""
    logits, values = (by_hand(net, float64(obs)) for net in (modules["policy"].net, modules["critic"].nets[0]))
    odds = [[math.exp(x) for x in row] for row in logits.tolist()]
    return [[x / sum(row) for x in row] for row in odds], values.tolist()


def expected_terms(agent, weigh):
    """The critic's and the policy's term, row by row; `weigh` turns an advantage into a weight."""
    (pi, q), (pi_there, q_there) = outputs(agent.nets, BATCH.obs), outputs(agent.targets, BATCH.next_obs)
    critic, policy = 0.0, 0.0
    for row, action in enumerate(BATCH.action.tolist()):
        following = sum(p * value for p, value in zip(pi_there[row], q_there[row], strict=True))
        target = float(BATCH.reward[row]) + float(BATCH.discount[row]) * following
        critic += (q[row][action] - target) ** 2 / len(BATCH.action)
        advantage = q[row][action] - sum(p * value for p, value in zip(pi[row], q[row], strict=True))
        policy -= weigh(advantage) * math.log(pi[row][action]) / len(BATCH.action)
    return {"critic": critic, "policy": policy}


def binary(advantage):
    return 1.0 if advantage > 0 else 0.0


def exponential(advantage):
    return min(math.exp(advantage / 0.1), 1.5)


@pytest.mark.parametrize(
    ("filter", "weigh"), [(Filter.binary, binary), (Filter.exp, exponential), (Filter.all, lambda advantage: 1.0)]
)
def test_crr_terms_row_by_row(agent, filter, weigh):
    out = answer(CRR("data", filter=filter, beta=0.1, exp_adv_max=1.5), agent, BATCH)
    terms = {name: term.item() for name, term in out.by_group.items()}
    assert terms == pytest.approx(expected_terms(agent, weigh), rel=1e-5)


def test_filters_distinguish_actions(agent):
    """Or the golden numbers above would not show which is which."""
    seen = []
    expected_terms(agent, lambda advantage: seen.append(advantage) or 0.0)
    assert {binary(advantage) for advantage in seen} == {0.0, 1.0}
    assert max(map(exponential, seen)) == 1.5 > min(map(exponential, seen))


def test_advantage_weights_are_constants(agent):
    """Neither the values nor the policy in the advantage are trained by it."""
    term = answer(CRR("data", beta=0.1), agent, BATCH).by_group["policy"]
    assert not any(gradient.any() for gradient in gradients(term, agent.nets["critic"]))
    weights = []
    expected_terms(agent, lambda advantage: weights.append(min(math.exp(advantage / 0.1), 20.0)) or 0.0)
    cloning = -(torch.tensor(weights) * agent.policy(BATCH.obs).log_prob(BATCH.action)).mean()
    expected = gradients(cloning, agent.nets["policy"])
    for found, wanted in zip(gradients(term, agent.nets["policy"]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_only_termination_stops_the_bootstrap(agent):
    cut = BATCH.having(truncated=torch.ones(len(BATCH.action), dtype=torch.bool))
    assert torch.equal(
        answer(CRR("data"), agent, cut).by_group["critic"], answer(CRR("data"), agent, BATCH).by_group["critic"]
    )
    ended = BATCH.having(discount=torch.zeros(len(BATCH.action)))
    elsewhere = ended.having(next_obs=BATCH.next_obs + 100.0)
    term = answer(CRR("data"), agent, ended).by_group["critic"]
    assert torch.equal(term, answer(CRR("data"), agent, elsewhere).by_group["critic"])
    assert not torch.equal(term, answer(CRR("data"), agent, BATCH).by_group["critic"])


def test_cql_with_crr_trains_action_values_and_not_the_policy(agent):
    out = answer(CQLDiscrete("data"), agent, BATCH)
    _, values = outputs(agent.nets, BATCH.obs)
    rows = zip(values, BATCH.action.tolist(), strict=True)
    gap = sum(math.log(sum(map(math.exp, row))) - row[action] for row, action in rows) / len(values)
    assert set(out.by_group) == {"critic"} and out.by_group["critic"].item() == pytest.approx(gap, rel=1e-5)


def test_frames_are_encoded_once_and_both_terms_train_the_encoder():
    rows = batch(FRAMES, TWO, 1, size=4)

    def stepped(losses):
        agent = composed.policy_q().build(spaces(FRAMES, TWO))
        agent.add_target_networks(SLOW)
        algo = Algo(composed.policy_q(), losses, targets={name: Target() for name in SLOW})
        learner = Learner([agent], algo, 0, torch.device("cpu"))
        seen = []
        agent.nets["encoder"].register_forward_hook(lambda *_: seen.append(1))
        learner.step({"data": rows}, list(losses))
        return agent, len(seen)

    both, passes = stepped({"crr": CRR("data"), "gap": CQLDiscrete("data", weight=10.0)})
    assert passes == 1
    terms = [answer(loss, both, rows).by_group for loss in (CRR("data"), CQLDiscrete("data"))]
    encoder = both.nets["encoder"]
    assert any(gradient.any() for gradient in gradients(terms[0]["policy"], encoder))
    assert any(gradient.any() for gradient in gradients(terms[1]["critic"], encoder))


@pytest.mark.parametrize("name", ["beta", "exp_adv_max"])
def test_crr_with_a_number_not_above_0_is_refused(name):
    with pytest.raises(UserError, match=f"^{name}: expected a number above 0, got 0.0$"):
        CRR("data", **{name: 0.0})
