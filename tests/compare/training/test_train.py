"""Replicas, one by one and together: what a call gives, and what it refuses."""

import json
from functools import partial

import pytest
import torch
from tests.compare.training.nets import ENOUGH, RULES, SAME_SPEED, problem
from torch import nn

from truestep.compare.problems import quadratic, seeded
from truestep.compare.training import Curves, Replica, train, train_trial
from truestep.compare.training._stackable import why_not_worth_it

SGD = RULES["sgd"]


def test_the_default_is_the_problems_own_length() -> None:
    assert train(problem(), SGD, SAME_SPEED).steps == tuple(range(1, 9))


def test_one_replica_is_trained_alone_unless_a_stack_is_asked_for() -> None:
    alone, stack = (train(problem(), SGD, SAME_SPEED[:1], stacked=stacked) for stacked in (None, True))
    assert (alone.why_not, stack.why_not) == ("there is one replica", "")
    torch.testing.assert_close(alone.losses, stack.losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("width", "count", "why_not"),
    [
        (4, 2, "2 replicas are too few to gain by it on a CPU"),
        (4, 3, "3 replicas are too few to gain by it on a CPU"),
        (4, 4, ""),
        (3333, 4, ""),
        (3334, 4, "a model of 30009 weights is too large to gain by it on a CPU"),
    ],
)
def test_a_stack_is_made_where_it_is_faster(width: int, count: int, why_not: str) -> None:
    replicas = (ENOUGH * 2)[:count]
    assert train(problem(build=partial(wide, width)), SGD, replicas, steps=1).why_not == why_not
    assert train(problem(build=partial(wide, width)), SGD, replicas, steps=1, stacked=True).stacked


def wide(width: int, seed: int) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, width), nn.Linear(width, 3)).double()


def test_off_the_cpu_a_stack_of_two_is_worth_it() -> None:
    assert why_not_worth_it(nn.Linear(10_000, 100, device="meta"), 2) == ""


def test_a_rule_that_does_not_stack_says_so() -> None:
    curves = train(problem(), partial(torch.optim.Rprop, lr=0.01), ENOUGH, steps=2)
    assert curves.why_not == "Rprop is none of the optimizers that can be stacked"


def test_a_trial_is_plain_json_and_leaves_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = train_trial(problem(), SGD, SAME_SPEED, points=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    read = Curves.from_dict(json.loads(json.dumps(found)))
    assert torch.equal(read.losses, train(problem(), SGD, SAME_SPEED, points=2).losses)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, found 0"),
        ({"points": 0}, "`points` must be at least 1, found 0"),
        ({"schedule": "cosine"}, "`schedule` must be one of 'constant', 'linear', found 'cosine'"),
        ({"replicas": []}, "`replicas` must be at least one"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**({"problem": quadratic(), "optimizer": SGD, "replicas": [Replica(0, 0)]} | settings))
