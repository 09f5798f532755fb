"""Double Q-learning against its equation, row by row in float64."""

import numpy as np
import pytest
import torch

from lfd.algos.dqn import DQN, TDErrorKind
from lfd.batch import Batch
from lfd.errors import UserError
from tests import composed
from tests.algos.cases import BATCH, TWO, VECTOR, answer, float64, spaces, stirred


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("error", list(TDErrorKind))
def test_dqn_loss_is_the_error_to_the_bootstrapped_target(error, double):
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    with torch.no_grad():
        for parameter in agent.targets.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        q, q_next = (
            agent.nets["critic"](BATCH.obs)[:, 0].double().numpy(),
            agent.nets["critic"](BATCH.next_obs)[:, 0].double().numpy(),
        )
        slow = agent.targets["critic"](BATCH.next_obs)[:, 0].double().numpy()
    expected = []
    for i, action in enumerate(BATCH.action.tolist()):
        best = int(np.argmax(q_next[i] if double else slow[i]))
        target = float(BATCH.reward[i]) + float(BATCH.discount[i]) * slow[i, best]
        difference = q[i, action] - target
        expected.append(huber(difference) if error is TDErrorKind.huber else difference**2)
    out = answer(DQN("data", error=error, double=double), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_dqn_temperature_makes_the_next_value_a_soft_maximum():
    agent = stirred(composed.q_net([8]).build(spaces(VECTOR, TWO)), ["critic"])
    value, slow = float64(agent.nets["critic"](BATCH.obs)[:, 0]), float64(agent.targets["critic"](BATCH.next_obs)[:, 0])
    soft = 0.7 * np.log(np.exp(slow / 0.7).sum(-1))
    error = value[np.arange(8), BATCH.action] - float64(BATCH.reward) - float64(BATCH.discount) * soft
    out = answer(DQN("data", error=TDErrorKind.squared, temperature=0.7), agent, BATCH)
    assert out.by_group["critic"].item() == pytest.approx((error**2).mean(), rel=1e-5)


def test_dqn_with_a_negative_temperature_is_refused():
    with pytest.raises(UserError, match="^temperature: expected 0 or more, got -1"):
        DQN("data", temperature=-1)


def test_termination_is_not_bootstrapped():
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    ended = BATCH.having(discount=torch.zeros(len(BATCH.action)))
    elsewhere = ended.having(next_obs=BATCH.next_obs + 100.0)
    assert torch.equal(
        answer(DQN("data"), agent, ended).by_group["critic"], answer(DQN("data"), agent, elsewhere).by_group["critic"]
    )


def test_importance_weights_scale_rows_and_priorities_are_errors():
    agent = composed.q_net([8]).build(spaces(VECTOR, TWO))
    agent.add_target_networks(["critic"])
    weight = torch.zeros(len(BATCH.action))
    weight[2] = 4.0
    plain = answer(DQN("data"), agent, BATCH)
    only = answer(DQN("data"), agent, BATCH.having(weight=weight))
    error = plain.feedback["priority"][2].item()
    assert only.by_group["critic"].item() == pytest.approx(4.0 * huber(error) / len(weight), rel=1e-5)


def test_dqn_with_a_batch_that_lacks_columns_is_refused():
    with pytest.raises(AttributeError, match="'Batch' object has no attribute 'reward'"):
        answer(DQN("data"), composed.q_net([8]).build(spaces(VECTOR, TWO)), Batch(obs=BATCH.obs))
