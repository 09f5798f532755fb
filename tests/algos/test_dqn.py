"""Double Q-learning against its equation, row by row in float64."""

import numpy as np
import pytest
import torch

from lfd.agents.q import QNet
from lfd.algos.dqn import DQN, Error
from lfd.batch import Batch
from lfd.errors import Refused
from tests.algos.cases import BATCH, TWO, VECTOR, answer, float64, spaces, stirred


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("error", list(Error))
def test_loss_is_the_error_to_the_bootstrapped_target(error, double):
    agent = QNet([8]).build(spaces(VECTOR, TWO))
    agent.keep_targets(["q"])
    with torch.no_grad():
        for parameter in agent.targets.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        q, q_next = agent.nets["q"](BATCH.obs).double().numpy(), agent.nets["q"](BATCH.next_obs).double().numpy()
        slow = agent.targets["q"](BATCH.next_obs).double().numpy()
    expected = []
    for i, action in enumerate(BATCH.action.tolist()):
        best = int(np.argmax(q_next[i] if double else slow[i]))
        target = float(BATCH.reward[i]) + float(BATCH.discount[i]) * slow[i, best]
        difference = q[i, action] - target
        expected.append(huber(difference) if error is Error.huber else difference**2)
    out = answer(DQN("data", error=error, double=double), agent, BATCH)
    assert out.terms["q"].item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_with_a_temperature_the_next_value_is_a_soft_maximum():
    agent = stirred(QNet([8]).build(spaces(VECTOR, TWO)), ["q"])
    value, slow = float64(agent.nets["q"](BATCH.obs)), float64(agent.targets["q"](BATCH.next_obs))
    soft = 0.7 * np.log(np.exp(slow / 0.7).sum(-1))
    error = value[np.arange(8), BATCH.action] - float64(BATCH.reward) - float64(BATCH.discount) * soft
    out = answer(DQN("data", error=Error.squared, temperature=0.7), agent, BATCH)
    assert out.terms["q"].item() == pytest.approx((error**2).mean(), rel=1e-5)


def test_a_temperature_below_zero_is_refused():
    with pytest.raises(Refused, match="temperature is -1"):
        DQN("data", temperature=-1)


def test_a_termination_is_not_bootstrapped():
    agent = QNet([8]).build(spaces(VECTOR, TWO))
    agent.keep_targets(["q"])
    ended = BATCH.having(discount=torch.zeros(len(BATCH.action)))
    elsewhere = ended.having(next_obs=BATCH.next_obs + 100.0)
    assert torch.equal(answer(DQN("data"), agent, ended).terms["q"], answer(DQN("data"), agent, elsewhere).terms["q"])


def test_importance_weights_scale_rows_and_priorities_are_errors():
    agent = QNet([8]).build(spaces(VECTOR, TWO))
    agent.keep_targets(["q"])
    weight = torch.zeros(len(BATCH.action))
    weight[2] = 4.0
    plain = answer(DQN("data"), agent, BATCH)
    only = answer(DQN("data"), agent, BATCH.having(weight=weight))
    error = plain.feedback["priority"][2].item()
    assert only.terms["q"].item() == pytest.approx(4.0 * huber(error) / len(weight), rel=1e-5)


def test_needs_a_batch_with_its_columns():
    with pytest.raises(AttributeError):
        answer(DQN("data"), QNet([8]).build(spaces(VECTOR, TWO)), Batch(obs=BATCH.obs))
