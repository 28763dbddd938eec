"""The three remedies: each verdict from typed-in ratios, and the identities on a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.counteracting_decay import ARMS, DECAY, LR, judge, plot, run


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"step": [0.0, 1.0], "twin_error": 1e-12, "sphere_error": 1e-15}
    for name in ARMS:
        usual |= {f"{name}_end": 2.0, f"{name}_curve": [0.3, 0.6]}
    usual |= {"plain_end": 0.6, "sphere_end": 1.0}
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"usual_decay_end": 0.7}, Verdict.SUPPORTED),  # shown, not judged
        ({"decay_end": 0.8}, Verdict.PARTLY),
        ({"sphere_error": 1e-9}, Verdict.PARTLY),
        ({"decay_end": 0.8, "exponential_end": 0.8, "sphere_end": 0.8}, Verdict.REFUTED),
        ({"decay_end": 0.8, "exponential_end": 0.8, "sphere_error": 1e-9}, Verdict.REFUTED),
        ({"plain_end": 0.95}, Verdict.INCONCLUSIVE),
    ],
)
def test_each_remedy_must_keep_the_effective_lr_up(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is verdict


def test_intervals_that_cross_and_no_remedy_that_holds_tell_nothing() -> None:
    low, high = typed_in(decay_end=0.8, exponential_end=0.8), typed_in(decay_end=1.0, exponential_end=1.0)
    crossing = [low[0] | {"sphere_error": 1e-9}, high[0]]
    assert judge(crossing).verdict is Verdict.INCONCLUSIVE


def test_a_growing_lr_is_weight_decay_and_norm_1_is_the_lr() -> None:
    measured = run(0, "cpu", steps=25)
    assert measured["twin_error"] < 1e-12
    assert measured["sphere_error"] < 1e-14
    assert measured["exponential_end"] == pytest.approx(measured["decay_end"], rel=1e-12)
    assert measured["plain_end"] < measured["usual_decay_end"] < measured["decay_end"]
    assert measured["sphere_curve"][-1] == pytest.approx(LR, rel=1e-12)


def test_the_lr_grows_by_the_inverse_square_of_what_decay_leaves() -> None:
    left = 1 - LR * DECAY
    assert ARMS["exponential"].growth * left**2 == pytest.approx(1.0, rel=1e-14)
    assert ARMS["exponential"].lr * left == pytest.approx(LR, rel=1e-14)


def test_a_seed_gives_the_same_bits_again() -> None:
    assert run(1, "cpu", steps=2) == run(1, "cpu", steps=2)


def test_the_figure_names_each_arm_once() -> None:
    (axis,) = plot(typed_in()).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [arm.label for arm in ARMS.values()]
