"""Recorded functions: the bits of the function itself, or no recording at all."""

import pytest
import torch

from lfd.capture import KINDS, Captured


class Counted:
    """A function that counts how often it was really called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def run(function, inputs):
    """The answers of a captured function, and how often it was called for them."""
    counted = Counted(function)
    captured = Captured(counted)
    return [captured(*given) for given in inputs], counted.calls


def vectors(number, size=3):
    return [(torch.randn(size, generator=torch.Generator().manual_seed(seed)),) for seed in range(number)]


def test_a_function_is_called_twice_and_then_repeated():
    answers, calls = run(lambda x: {"sum": (2.5 * x).tanh().sum(), "same": [x]}, vectors(5))
    assert calls == 2
    for (x,), answer in zip(vectors(5), answers, strict=True):
        assert torch.equal(answer["sum"], (2.5 * x).tanh().sum()) and torch.equal(answer["same"][0], x)


def test_gradients_and_changes_of_what_it_found():
    def descend(weight):
        def step(x):
            (gradient,) = torch.autograd.grad((weight.t() @ x).relu().square().sum(), weight)
            with torch.no_grad():
                weight.sub_(0.1 * gradient)
            return gradient

        return step

    one, two = (torch.arange(6.0).reshape(3, 2).requires_grad_() for _ in range(2))
    answers, calls = run(descend(one), vectors(6))
    assert calls == 2
    plain = descend(two)
    assert all(torch.equal(answer, plain(*given)) for answer, given in zip(answers, vectors(6), strict=True))
    assert torch.equal(one, two)


def test_what_the_first_call_prepares_is_left_out():
    tables = {}

    def shifted(x):
        if len(x) not in tables:
            tables[len(x)] = torch.ones(len(x)).cumsum(0)
        return x + tables[len(x)]

    answers, calls = run(shifted, vectors(5))
    assert calls == 3
    assert all(map(torch.equal, answers, (x + torch.tensor([1.0, 2, 3]) for (x,) in vectors(5))))


def test_draws_go_on():
    def draw(generator):
        return lambda x: x + torch.randn(3, generator=generator)

    answers, calls = run(draw(torch.Generator().manual_seed(0)), vectors(6))
    plain = draw(torch.Generator().manual_seed(0))
    assert calls == 2 and all(map(torch.equal, answers, (plain(x) for (x,) in vectors(6))))


def test_writes_into_what_it_made():
    def fill(x):
        made = torch.zeros(2, 3)
        other = torch.zeros(2, 3)
        made[0] = x
        made[1].add_(made[0])
        return made, other

    answers, calls = run(fill, vectors(4))
    assert calls == 2
    for (x,), (made, other) in zip(vectors(4), answers, strict=True):
        assert torch.equal(made, torch.stack([x, x])) and not other.any()


def test_a_number_of_python_that_changes_is_no_constant():
    state = {"calls": 0}

    def scaled(x):
        state["calls"] += 1
        return state["calls"] * x

    answers, calls = run(scaled, vectors(5))
    assert calls == 5 and torch.equal(answers[4], 5 * vectors(5)[4][0])


def test_a_tensor_that_is_made_anew_outside_is_no_constant():
    counter = iter(range(100))
    table = [torch.full((3,), float(value)) for value in range(10)]
    answers, calls = run(lambda x: x + table[next(counter)], vectors(5))
    assert calls == 5 and torch.equal(answers[4], vectors(5)[4][0] + 4)


@pytest.mark.parametrize("look", [lambda x: x * x.sum().item(), lambda x: x[x > 0], lambda x: -x if x[0] > 0 else x])
def test_what_looks_into_a_tensor_is_called(look):
    answers, calls = run(look, vectors(8))
    assert calls == 8 and all(map(torch.equal, answers, (look(x) for (x,) in vectors(8))))


def test_each_kind_of_inputs_has_its_record():
    def scaled(x, names):
        return x * len(names)

    given = [(*vectors(1, size)[0], names) for size in (2, 3) for names in ([], ["a"]) for _ in range(4)]
    answers, calls = run(scaled, given)
    assert calls == 8
    assert all(map(torch.equal, answers, (scaled(*args) for args in given)))


def test_kinds_beyond_the_limit_are_called():
    captured = Captured(torch.neg)
    for _ in range(3):
        for size in range(1, KINDS + 3):
            assert torch.equal(captured(torch.ones(size)), -torch.ones(size))
    assert len(captured.programs) == KINDS
