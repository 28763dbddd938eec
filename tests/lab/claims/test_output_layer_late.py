"""The output layer's speed: each verdict from typed-in logarithms, and a short run."""

import pytest
import torch

from truestep.core import Gram
from truestep.lab import Interval, Measurement, Verdict
from truestep.lab.claims.output_layer_late import ARMS, judge, plot, run, share, smooth_ratio, train, verdict


def typed_in(**changed: float) -> list[Measurement]:
    usual: Measurement = {"step": [0.0, 1.0]}
    for name in ARMS:
        usual |= {f"{name}_early": 0.0, f"{name}_late": 0.5, f"{name}_curve": [1.0, 1.5]}
        usual |= {f"{name}_share_early": 0.2, f"{name}_share_late": 0.3}
        usual |= {f"{name}_head_norm": 2.0, f"{name}_hidden_norm": 1.2}
    usual["held_late"] = 0.1
    return [usual | changed, usual | changed]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.SUPPORTED),
        ({"plain_late": -0.1, "held_late": -0.5}, Verdict.PARTLY),
        ({"plain_late": -0.5, "held_late": -0.1}, Verdict.REFUTED),
        ({"held_late": 0.6}, Verdict.REFUTED),
    ],
)
def test_the_gain_and_its_cause_decide(changed: dict[str, float], expected: Verdict) -> None:
    assert judge(typed_in(**changed)).verdict is expected


def test_an_effect_across_0_tells_nothing() -> None:
    assert verdict(Interval(0.5, 0.4, 0.6), Interval(0.0, -0.1, 0.1)) is Verdict.INCONCLUSIVE
    assert verdict(Interval(0.0, -0.1, 0.1), Interval(0.0, -0.1, 0.1)) is Verdict.INCONCLUSIVE


def test_the_reason_says_how_fast_the_head_turns() -> None:
    reason = judge(typed_in()).reason
    assert "turns 1.00 times as fast as the hidden units in the first 100 steps and 1.65 times in the last" in reason


def constant(d: float, units: int) -> Gram:
    one = torch.ones(20, units, dtype=torch.float64)
    zero = 0 * one
    return Gram(ww=one, wg=zero, wd=zero, gg=one, gd=-d * one, dd=d**2 * one)


def test_the_curve_is_the_angles_ratio() -> None:
    ratio = smooth_ratio(constant(0.1, 4), constant(0.2, 2), [0, 5, 19])
    expected = (torch.tensor(0.2).atan() / torch.tensor(0.1).atan()).item()
    assert ratio == pytest.approx([expected] * 3, rel=1e-6)


def test_the_share_counts_every_unit() -> None:
    assert share(constant(0.1, 4), constant(0.2, 2), slice(5)) == pytest.approx(0.5)  # .2 x 2 of .1 x 4 + .2 x 2


def test_held_norms_hold_and_all_layers_are_trained() -> None:
    hidden, head = train(0, "cpu", 8, hold=True)
    torch.testing.assert_close(hidden.ww, hidden.ww[:1].expand(8, -1), rtol=1e-13, atol=0)
    assert (head.dd > 0).all()
    free, _ = train(0, "cpu", 8, hold=False)
    assert (free.ww[1:] > free.ww[:-1]).all()


def test_a_seed_gives_the_same_bits_again_and_both_arms_start_alike() -> None:
    measured = run(1, "cpu", steps=6, early=1, late=2)
    assert measured == run(1, "cpu", steps=6, early=1, late=2)
    assert measured["plain_early"] == pytest.approx(
        measured["held_early"], abs=1e-3
    )  # projection alters d, not its turn


def test_the_figure_names_both_arms() -> None:
    (axis,) = plot(typed_in()).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [label for label, _ in ARMS.values()]
