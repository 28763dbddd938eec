from functools import partial

import torch
from torch.optim import SGD, Adam

from truestep.compare.problems import noisy_quadratic
from truestep.compare.rank._grid import first_length
from truestep.compare.rank._plan import DEFAULT, Plan, list_plans
from truestep.compare.training import Matched

OPTIMIZERS = {"sgd": partial(SGD, lr=0.5), "adam": Adam}


def plans() -> list[Plan]:
    norms = [("l2", "global"), ("relative", "tensor")]
    return list_plans(noisy_quadratic(), OPTIMIZERS, norms, steps=9, schedule="linear")


def test_what_is_tuned_is_each_optimizers_own_lr_or_one_length_for_all() -> None:
    tuned, l2, relative, unit = plans()
    assert tuned.units == unit.units == {"sgd": 0.5, "adam": 1e-3}
    assert set(l2.units.values()) == {first_length(noisy_quadratic(), "l2", "global")}
    assert relative.units == {"sgd": 0.03, "adam": 0.03}


def test_trials_of_a_protocol_differ_by_what_it_is_named_by() -> None:
    tuned, l2, _, unit = (plan.trials["sgd"].keywords for plan in plans())
    length = first_length(noisy_quadratic(), "l2", "global")
    assert l2 == {**tuned, "control": Matched(length, "l2", "global")}
    assert unit == {**tuned, "unit_loss": True}


def test_runs_are_read_at_half_and_at_the_end_by_value() -> None:
    found = {
        "sgd": {0.1: torch.tensor([[9.0, 5.0], [9.0, 5.0]]).double(), 1.0: torch.tensor([[7.0, 1.0]] * 2).double()},
        "adam": {1.0: torch.tensor([[8.0, 4.0]] * 2).double()},
    }
    protocol = plans()[0].judged(found, 1e3, (1,))
    assert protocol.grid == {"sgd": (0.05, 0.5), "adam": (1e-3,)}
    assert protocol.losses["sgd"].tolist() == [[5.0, 5.0], [1.0, 1.0]]
    assert protocol.half["sgd"].tolist() == [[9.0, 9.0], [7.0, 7.0]]
    assert protocol.best["sgd"] == 0.5
    plain = plans()[0].untuned(found, 1e3)
    assert (plain.name, plain.grid["sgd"], plain.losses["sgd"].tolist()) == (DEFAULT, (0.5,), [[1.0, 1.0]])
    assert plain.budget["sgd"] == {}
