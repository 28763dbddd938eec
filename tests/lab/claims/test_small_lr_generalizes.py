"""The small lr: each verdict from typed-in accuracies, the problems, and a run of a few steps."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._ensemble import draw_ensemble, repeated
from truestep.lab.claims.small_lr_generalizes import (
    ARMS,
    NETS,
    PROBLEMS,
    draw_problems,
    judge,
    plot,
    run,
    train,
)

USUAL = {"large": 0.9, "same": 0.88, "small": 0.9, "large_long": 0.9}


def typed_in(**changed: float) -> list[Measurement]:
    one: Measurement = {}
    for name in PROBLEMS:
        one |= {f"{name}_{arm}": changed.get(f"{name}_{arm}", USUAL[arm]) for arm in ARMS}
    return [one, one]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"few_small": 0.895}, Verdict.SUPPORTED),
        ({"few_small": 0.88}, Verdict.PARTLY),
        ({f"{name}_small": 0.88 for name in PROBLEMS}, Verdict.REFUTED),
        ({f"{name}_same": 0.9 for name in PROBLEMS}, Verdict.INCONCLUSIVE),  # nothing was lost to make good
        ({"clean_same": 0.9, "few_same": 0.9, "noisy_small": 0.88}, Verdict.INCONCLUSIVE),
        ({f"{name}_large_long": 0.7 for name in PROBLEMS}, Verdict.SUPPORTED),  # told, not judged
    ],
)
def test_longer_must_make_good_what_the_small_lr_lost(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_an_uncertain_gap_is_inconclusive() -> None:
    assert judge([typed_in(few_small=0.85)[0], typed_in(few_small=0.93)[0]]).verdict is Verdict.INCONCLUSIVE


def test_the_problems_are_small_and_one_has_wrong_labels() -> None:
    clean, few, noisy = draw_problems(0, "cpu")
    assert [len(data.train_y) for data in (clean, few, noisy)] == [300, 100, 300]
    whole = digits()
    wrong: list[float] = []
    for data in (clean, few, noisy):
        where = (data.train_x[:, None] == whole.train_x).all(-1).int().argmax(1)
        wrong.append((whole.train_y[where] != data.train_y).double().mean().item())
    assert wrong[:2] == [0.0, 0.0]
    assert 0.03 < wrong[2] < 0.15  # a random label is right one time in ten


def test_each_net_learns_its_own_problem_at_its_own_lr() -> None:
    problems = draw_problems(0, "cpu")
    start = draw_ensemble(3, (8,), torch.Generator().manual_seed(0))
    nets = repeated(start, 2)
    train(nets, problems, [1.0, 0.0] * 3, (3,), torch.Generator().manual_seed(0))
    assert torch.equal(nets.hidden[0][1::2], start.hidden[0])  # lr 0: neither gradient nor decay
    assert not torch.isclose(nets.hidden[0][::2], start.hidden[0]).all()


def test_a_short_run_measures_every_arm_of_every_problem() -> None:
    measured = run(0, "cpu", short=(3, 1, 1), long=(6, 2, 2))
    assert set(measured) == set(typed_in()[0])
    steps = [value * 597 * NETS for value in measured.values() if not isinstance(value, list)]
    assert all(abs(step - round(step)) < 1e-6 for step in steps)  # a share of the test images, over the nets


def test_the_figure_has_a_panel_for_each_problem() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [data.label for data in PROBLEMS.values()]
