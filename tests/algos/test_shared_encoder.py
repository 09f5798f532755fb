"""What trains the encoder that nets share: the terms of all losses but those that pass through a critic."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from lfd.algos.edac import EDAC
from lfd.learner.learner import Learner
from lfd.learner.optim import OptimConfig, OptimizerKind
from lfd.rng import GeneratorRng, ReplayedRng, ShapeRecorder
from tests.algos.cases import VECTOR, gradients
from tests.algos.losses import CASES, agent_of, algo_of, batches_of

SMALL_FRAMES = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
ON_TRUNK = {name: case for name, case in CASES.items() if case.obs is VECTOR and case.agent.nets}


@pytest.mark.parametrize("case", ON_TRUNK.values(), ids=ON_TRUNK)
def test_shared_encoder_is_trained_by_all_terms_but_those_through_a_critic(case):
    """Each net is trained by the whole gradient of its own term, also where that passes through a critic."""
    case = replace(case, obs=SMALL_FRAMES)
    algo, agent, batches = algo_of(case), agent_of(case, 0), batches_of(case, 1)
    algo.optim = {name: OptimConfig(OptimizerKind.sgd, lr=1.0) for name in agent.nets}
    learner, sketch, generator = Learner([agent], algo, 0, torch.device("cpu")), ShapeRecorder(), GeneratorRng(5)
    learner.evaluate(["row"], batches, sketch)
    draws = [generator.draw(kind, shape) for kind, shape in sketch.requests]
    terms = learner.evaluate(["row"], batches, ReplayedRng(draws))["row"].by_group
    training = [terms[group] for group in terms if group in agent.on_trunk and group not in case.loss.through_critic]
    before = {name: [value.detach().clone() for value in net.parameters()] for name, net in agent.nets.items()}
    expected = {name: [torch.zeros_like(value) for value in values] for name, values in before.items()}
    trained = terms | ({"encoder": torch.stack(training).sum()} if training else {})
    expected |= {name: gradients(term, agent.nets[name]) for name, term in trained.items()}
    # the slope of a critic with ReLU layers by its action is piecewise constant, so that EDAC has no gradient here
    has_gradient = any(gradient.any() for gradient in expected["encoder"])
    assert has_gradient is (bool(training) and not isinstance(case.loss, EDAC))
    learner.rng = ReplayedRng(draws)
    learner.step(batches, ["row"])
    for name, net in agent.nets.items():
        for value, old, gradient in zip(net.parameters(), before[name], expected[name], strict=True):
            torch.testing.assert_close(value, old - gradient, rtol=1e-4, atol=1e-6)
