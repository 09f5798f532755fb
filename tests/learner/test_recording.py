"""Recorded functions: the bits of the function itself, or no recording at all."""

import ctypes

import numpy as np
import pytest
import torch

from lfd.learner.recording import KINDS, RecordedStep


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
    captured = RecordedStep(counted)
    return [captured(*given) for given in inputs], counted.calls


def called(number, recorded=2):
    """How often a function is called in so many calls: while it is recorded, and beside its first repetitions."""
    repeated = range(recorded + 1, number + 1)
    return recorded + sum(call == recorded + 1 or call in (4, 8, 16, 32) for call in repeated)


def vectors(number, size=3):
    return [(torch.randn(size, generator=torch.Generator().manual_seed(seed)),) for seed in range(number)]


def test_function_is_called_twice_and_then_replayed():
    answers, calls = run(lambda x: {"sum": (2.5 * x).tanh().sum(), "same": [x]}, vectors(20))
    assert calls == called(20) == 2 + 4
    for (x,), answer in zip(vectors(20), answers, strict=True):
        assert torch.equal(answer["sum"], (2.5 * x).tanh().sum()) and torch.equal(answer["same"][0], x)


def test_gradients_and_writes_to_external_tensors_are_replayed():
    def descend(weight):
        def step(x):
            (gradient,) = torch.autograd.grad((weight.t() @ x).relu().square().sum(), weight)
            with torch.no_grad():
                weight.sub_(0.1 * gradient)
            return gradient

        return step

    one, two = (torch.arange(6.0).reshape(3, 2).requires_grad_() for _ in range(2))
    answers, calls = run(descend(one), vectors(6))
    assert calls == called(6)
    plain = descend(two)
    assert all(torch.equal(answer, plain(*given)) for answer, given in zip(answers, vectors(6), strict=True))
    assert torch.equal(one, two)


def test_initialization_in_the_first_call_is_not_recorded():
    tables = {}

    def shifted(x):
        if len(x) not in tables:
            tables[len(x)] = torch.ones(len(x)).cumsum(0)
        return x + tables[len(x)]

    answers, calls = run(shifted, vectors(7))
    assert calls == called(7, recorded=3)
    assert all(map(torch.equal, answers, (x + torch.tensor([1.0, 2, 3]) for (x,) in vectors(7))))


def test_replayed_draws_advance_their_generator():
    def draw(generator):
        return lambda x: x + torch.randn(3, generator=generator)

    answers, calls = run(draw(torch.Generator().manual_seed(0)), vectors(6))
    plain = draw(torch.Generator().manual_seed(0))
    assert calls == called(6) and all(map(torch.equal, answers, (plain(x) for (x,) in vectors(6))))


def test_unused_draws_advance_their_generator():
    def draw(generator):
        def second(x):
            torch.randn(3, generator=generator)
            return x + torch.randn(3, generator=generator)

        return second

    answers, calls = run(draw(torch.Generator().manual_seed(0)), vectors(6))
    plain = draw(torch.Generator().manual_seed(0))
    assert calls == called(6) and all(map(torch.equal, answers, (plain(x) for (x,) in vectors(6))))


def test_unused_batch_norm_updates_its_statistics():
    def seen(norm):
        def step(x):
            norm(x[:, None])
            return 2 * x

        return step

    norms = [torch.nn.BatchNorm1d(1) for _ in range(2)]
    assert run(seen(norms[0]), vectors(7))[1] <= called(7, recorded=3)
    for given in vectors(7):
        seen(norms[1])(*given)
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)


def test_literal_that_is_written_to_is_created_in_every_replay():
    def count(x):
        number = torch.tensor(0.0)
        number += (x > -9).sum()
        return x / number

    answers, _ = run(count, vectors(6))
    assert all(torch.equal(answer, x / 3) for answer, (x,) in zip(answers, vectors(6), strict=True))


def test_literals_keep_the_sign_of_zero():
    (*_, answer), _ = run(lambda x: (1 / (x * 0.0), 1 / (x * -0.0)), [(torch.ones(1),)] * 4)
    assert answer[0] == torch.inf and answer[1] == -torch.inf


def test_views_that_only_some_calls_make_do_not_matter():
    table, turns = torch.arange(6.0).view(2, 3), iter(range(10))

    def shifted(x):
        for row in range(next(turns) % 2):
            table[row]
        return x + table[1]

    answers, _ = run(shifted, vectors(6))
    assert all(torch.equal(answer, x + table[1]) for answer, (x,) in zip(answers, vectors(6), strict=True))


def test_one_tensor_in_two_arguments_is_a_separate_kind():
    one, two = torch.ones(2), torch.zeros(2)
    answers, _ = run(torch.sub, [(one, one), (one, one), (one, one), (one, two)])
    assert [answer.tolist() for answer in answers] == [[0, 0], [0, 0], [0, 0], [1, 1]]


def test_memory_layout_is_part_of_the_kind():
    square = [(torch.arange(4.0).view(2, 2),)] * 3 + [(torch.arange(4.0).view(2, 2).t(),)]
    answers, calls = run(lambda x: x.contiguous().view(-1), square)
    assert calls == called(3) + 1 and answers[3].tolist() == [0, 2, 1, 3]


def test_writes_to_new_tensors_are_replayed():
    def fill(x):
        made = torch.zeros(2, 3)
        other = torch.zeros(2, 3)
        made[0] = x
        made[1].add_(made[0])
        return made, other

    answers, calls = run(fill, vectors(6))
    assert calls == called(6)
    for (x,), (made, other) in zip(vectors(6), answers, strict=True):
        assert torch.equal(made, torch.stack([x, x])) and not other.any()


def test_function_of_a_changing_python_number_is_not_replayed():
    state = {"calls": 0}

    def scaled(x):
        state["calls"] += 1
        return state["calls"] * x

    answers, calls = run(scaled, vectors(5))
    assert calls == 5 and torch.equal(answers[4], 5 * vectors(5)[4][0])


def test_function_of_changing_external_tensors_is_not_replayed():
    counter = iter(range(100))
    table = [torch.full((3,), float(value)) for value in range(10)]
    answers, calls = run(lambda x: x + table[next(counter)], vectors(5))
    assert calls == 5 and torch.equal(answers[4], vectors(5)[4][0] + 4)


LOOKS = [
    lambda x: x * x.sum().item(),
    lambda x: x[x > 0],
    lambda x: -x if x[0] > 0 else x,
    lambda x: x * float(x.numpy().max()),
    lambda x: x * max(x.tolist()),
    lambda x: x.detach().unsqueeze_(0),
    lambda x: x + torch.from_numpy(np.from_dlpack(x)),
    lambda x: x * ctypes.c_float.from_address(x.data_ptr()).value,
    lambda x: x.clone().apply_(lambda value: value + 1),
    lambda x: x.clone().map_(x, lambda one, other: one * other),
]


@pytest.mark.parametrize("look", LOOKS)
def test_function_that_reads_contents_is_not_replayed(look):
    answers, calls = run(look, vectors(8))
    assert calls == 8 and all(map(torch.equal, answers, (look(x) for (x,) in vectors(8))))


def test_each_kind_of_inputs_is_recorded():
    def scaled(x, names):
        return x * len(names)

    given = [(*vectors(1, size)[0], names) for size in (2, 3) for names in ([], ["a"]) for _ in range(6)]
    answers, calls = run(scaled, given)
    assert calls == 4 * called(6)
    assert all(map(torch.equal, answers, (scaled(*args) for args in given)))


def test_kinds_beyond_the_limit_are_not_recorded():
    captured = RecordedStep(torch.neg)
    for _ in range(3):
        for size in range(1, KINDS + 3):
            assert torch.equal(captured(torch.ones(size)), -torch.ones(size))
    assert len(captured.programs) == KINDS
    once = RecordedStep(torch.neg)
    for size in range(1, 3 * KINDS):
        once(torch.ones(size))
    assert len(once._records) == KINDS
