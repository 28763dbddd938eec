"""What holds for every problem: seeds, pickles, names, and that the model learns from its own batches."""

import inspect
import pickle
from itertools import islice
from typing import Any

import pytest
import torch

from truestep.compare import problems
from truestep.compare.problems import PROBLEMS, Problem

NOISY = {"rosenbrock", "beale", "quadratic", "rastrigin"}


def made(make: Any) -> Problem:
    """The problem, with noise where it has none of its own."""
    return make(noise=1.0) if make.__name__ in NOISY else make()


def first_batches(problem: Problem, seed: int) -> list[torch.Tensor]:
    return [x for batch in islice(problem.batches(seed), 3) for x in batch]


def weights(problem: Problem, seed: int) -> list[torch.Tensor]:
    return list(problem.build(seed).state_dict().values())


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


everywhere = pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)


def test_the_tuple_has_every_function_that_gives_a_problem_by_itself() -> None:
    functions = [getattr(problems, name) for name in problems.__all__]
    givers = [
        f for f in functions if inspect.isfunction(f) and inspect.signature(f).return_annotation in (Problem, "Problem")
    ]
    assert set(givers) - {problems.supervised} == set(PROBLEMS)
    assert [make().name for make in PROBLEMS] == [make.__name__.replace("_", "-") for make in PROBLEMS]


@everywhere
def test_a_seed_s_batches_are_bit_equal_and_another_seed_s_are_not(make) -> None:
    problem = made(make)
    assert same(first_batches(problem, 0), first_batches(problem, 0))
    assert not same(first_batches(problem, 0), first_batches(problem, 1))


@everywhere
def test_a_seed_s_weights_are_bit_equal_and_another_seed_s_are_not(make) -> None:
    problem = made(make)
    torch.manual_seed(7)  # what the run has drawn before does not matter
    assert same(weights(problem, 0), weights(make(), 0))
    assert not same(weights(problem, 0), weights(problem, 1))


@everywhere
def test_building_and_drawing_leave_the_global_random_numbers_alone(make) -> None:
    problem = made(make)
    before = torch.get_rng_state()
    problem.build(0)
    first_batches(problem, 0)
    assert torch.equal(torch.get_rng_state(), before)


@everywhere
def test_a_problem_that_was_pickled_is_the_same_problem(make) -> None:
    problem = made(make)
    copy = pickle.loads(pickle.dumps(problem))
    assert same(first_batches(problem, 3), first_batches(copy, 3))
    assert same(weights(problem, 3), weights(copy, 3))
    assert copy.probe_loss(copy.build(3)) == problem.probe_loss(problem.build(3))
    assert (copy.name, copy.target, copy.max_steps) == (problem.name, problem.target, problem.max_steps)


@everywhere
def test_no_seed_is_solved_before_it_begins_and_every_parameter_gets_a_gradient(make) -> None:
    problem = made(make)
    for seed in range(3):
        assert problem.probe_loss(problem.build(seed)) > problem.target
    model = problem.build(0)
    problem.loss_fn(model, next(problem.batches(0))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


# A rate and the number of steps within which it solves the problem, measured with room to spare.
SOLVED = {
    "beale": (3e-2, 400),
    "quadratic": (3e-2, 200),
    "rastrigin": (3e-2, 100),
    "rosenbrock": (3e-1, 400),
    "noisy-quadratic": (2e-2, 500),
    "digits-logistic": (1e-1, 100),
    "digits-mlp": (3e-2, 150),
    "digits-cnn": (3e-2, 50),
    "digits-autoencoder": (3e-2, 150),
    "breast-cancer": (3e-2, 100),
    "diabetes": (3e-2, 200),
    "char-gpt": (3e-3, 160),
}


@everywhere
def test_adam_at_a_good_rate_reaches_the_target_within_the_steps(make) -> None:
    problem = make()
    lr, steps = SOLVED[problem.name]
    assert steps <= problem.max_steps
    model = problem.build(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for batch in islice(problem.batches(1), steps):
        optimizer.zero_grad()
        problem.loss_fn(model, batch).backward()
        optimizer.step()
    assert problem.probe_loss(model) <= problem.target
