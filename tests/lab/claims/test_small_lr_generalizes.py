"""The small lr: each verdict from typed-in accuracies, the problems, and a run of a few steps."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import Digits, digits
from truestep.lab._ensemble import draw_ensemble, repeated
from truestep.lab.claims import small_lr_generalizes as module
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


def test_a_net_sees_the_images_of_its_own_problem_only(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        Digits(torch.full((size, 64), float(i)), torch.full((size,), i), torch.zeros(1, 64), torch.zeros(1).long())
        for i, size in enumerate((30, 10, 20))
    ]
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(module, "sgd_step", lambda nets, x, y, lr, decay: seen.append(torch.stack([x[:, :, 0], y])))
    nets = draw_ensemble(6, (8,), torch.Generator().manual_seed(0))
    train(nets, problems, [1.0] * 6, (5,), torch.Generator().manual_seed(0))
    own = torch.arange(3.0).repeat_interleave(2)[:, None]  # two nets of each problem
    assert all((found == own).all() for found in seen)


def test_nets_are_dealt_out_to_the_arms_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "accuracies", lambda nets, problems: [[0.25, 0.75] * NETS for _ in problems])
    measured = run(0, "cpu", short=(1,), long=(1,))
    for name in PROBLEMS:
        assert measured[f"{name}_large"] == measured[f"{name}_large_long"] == 0.25
        assert measured[f"{name}_same"] == measured[f"{name}_small"] == 0.75


def test_a_short_run_measures_every_arm_of_every_problem() -> None:
    measured = run(0, "cpu", short=(3, 1, 1), long=(6, 2, 2))
    assert set(measured) == set(typed_in()[0])
    steps = [value * 597 * NETS for value in measured.values() if not isinstance(value, list)]
    assert all(abs(step - round(step)) < 1e-6 for step in steps)  # a share of the test images, over the nets


def test_the_figure_has_a_panel_for_each_problem() -> None:
    assert [axis.get_title() for axis in plot(typed_in()).axes] == [data.label for data in PROBLEMS.values()]
