"""The trainings of a path test."""

from functools import partial

from torch.optim import SGD

from truestep.compare.problems import digits_mlp, quadratic
from truestep.compare.speed._path_trial import path_trial


def test_the_path_at_the_multiplier_is_nearer_than_at_one() -> None:
    found = path_trial(digits_mlp(), partial(SGD, lr=0.01), partial(SGD, lr=0.1), 2, 10.0, steps=30, points=6)
    assert found["distance"] < 2 * found["floor"] < found["distance_at_one"]


def test_a_path_trial_gives_plain_numbers() -> None:
    sgd = partial(SGD, lr=1e-3)
    found = path_trial(quadratic(), sgd, sgd, 2, 2.0, steps=10, points=5)
    assert set(found) == {"distance_at_one", "distance", "floor"}
    assert all(isinstance(value, float) for value in found.values())
    diverged = path_trial(quadratic(), partial(SGD, lr=1e3), sgd, 2, 2.0, steps=40, points=5)
    assert diverged["distance"] in ("nan", "inf")
