"""Schedules of optimizers: each verdict from typed-in logarithms, Lion by hand, and the matched start."""

from math import log

import pytest
import torch

from truestep.lab import Interval, Measurement, Verdict
from truestep.lab._normalized import rms_angle
from truestep.lab.claims.optimizer_schedules import ARMS, Lion, judge, matched_lr, plot, run, train, verdict


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"step": [0.0, 1.0], "angle_at_start": 0.05}
    for name in ARMS:
        usual |= {f"{name}_lr": 0.1, f"{name}_decay": -2.0, f"{name}_angle": -1.0}
        usual |= {f"{name}_curve": [1.0, 0.2], f"{name}_turned": [0.05, 0.01]}
    usual |= {"sgd_decay": -0.5, "again_decay": -0.52}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.SUPPORTED),
        ({"momentum_decay": -0.5}, Verdict.PARTLY),
        ({"momentum_decay": -0.5, "adam_decay": -0.4, "lion_decay": -0.6}, Verdict.REFUTED),
        ({"again_decay": -0.7}, Verdict.INCONCLUSIVE),
    ],
)
def test_each_must_end_apart_from_sgd(changed: dict[str, float], expected: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is expected


def test_intervals_across_the_threshold_tell_nothing() -> None:
    zero, across = Interval(0.0, 0.0, 0.0), Interval(0.2, 0.1, 0.3)  # log 1.25 = .223
    assert verdict([across, across, across], zero) is Verdict.INCONCLUSIVE


def test_the_reason_gives_the_ends_as_factors() -> None:
    reason = judge(typed_in(sgd_decay=log(0.5), again_decay=log(0.5))).reason
    assert "to 0.500 of its start under SGD" in reason
    assert "-1.31" in reason  # -2 less log .5


def test_lion_takes_the_sign_of_a_mean() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    lion = Lion([p], lr=0.1)
    for gradient in ([1.0, -2.0, 0.0], [-0.5, 0.1, 0.0]):
        p.grad = torch.tensor(gradient)
        lion.step()
    # the mean is (.01, -.02, 0) before the second step: signs of .009 - .05, -.018 + .01, 0
    torch.testing.assert_close(p.data, torch.tensor([0.0, 0.2, 0.0]))


def test_the_lr_is_set_so_that_the_first_angles_agree() -> None:
    gram, _ = train(ARMS["sgd"], 0.3, 0, "cpu", 6)
    angle = rms_angle(gram, slice(None))
    for name in ("adam", "lion", "momentum"):
        lr = matched_lr(ARMS[name], angle, 0, "cpu", 6)
        found, _ = train(ARMS[name], lr, 0, "cpu", 6)
        assert rms_angle(found, slice(None)) == pytest.approx(angle, rel=0.05)


def test_the_effective_lr_is_each_rule_s_own() -> None:
    gram, effective = train(ARMS["momentum"], 0.03, 0, "cpu", 2)
    torch.testing.assert_close(effective, 0.3 / gram.ww)
    gram, effective = train(ARMS["adam"], 0.01, 0, "cpu", 2)
    torch.testing.assert_close(effective, 0.01 / gram.weight_norm)


def test_a_seed_gives_the_same_bits_again_and_the_contrast_sees_other_batches() -> None:
    measured = run(1, "cpu", steps=4, start=2)
    assert measured == run(1, "cpu", steps=4, start=2)
    assert measured["again_decay"] != measured["sgd_decay"]
    assert measured["again_lr"] == measured["sgd_lr"] == 0.3
    assert measured["same_lr_lr"] == pytest.approx(0.03)
    assert measured["momentum_lr"] > 0.04  # its first steps are short


def test_the_figure_names_each_arm_once() -> None:
    left, _ = plot(typed_in()).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [arm.label for arm in ARMS.values()]
