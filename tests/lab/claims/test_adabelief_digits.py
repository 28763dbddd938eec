"""AdaBelief on digits: each verdict from made-up curves of known speed, the swap's effects, a short run."""

import pytest

from truestep.lab import Measurement, Verdict
from truestep.lab.claims.adabelief_digits import ARMS, MULTIPLIERS, RIVALS, effects, judge, plot, run, speed

STEPS = [10.0 * k for k in range(1, 31)]


def falling(c: float, height: float = 1.0) -> list[float]:
    return [height * (1 + c * step / 20) ** -1.5 for step in STEPS]


def made_up(**rivals: list[float]) -> list[Measurement]:
    """Adam falls by a power law; AdaBelief 1.6 times as fast, the other rivals as they should."""
    usual = {"batch_belief": falling(1.6), "full_belief": falling(3.0), "tenfold": falling(10.0)}
    usual |= {"rmsprop": falling(1.0, 3.0)} | rivals
    out: Measurement = {}
    for where in ("batch", "full"):
        out |= {f"{where}_start": 1.0, f"{where}_steps": STEPS}
        out |= {f"{where}_adam_{i}": falling(c) for i, c in enumerate(MULTIPLIERS)}
    for rival in RIVALS:
        out |= {rival: usual[rival], f"{rival}_again": usual[rival]}
    out |= dict(zip((f"arm_{arm}" for arm in ARMS), (0.0, -0.4, -0.1, -0.5), strict=True))
    return [out, out]


OTHER = falling(1.0, 2.0)


@pytest.mark.parametrize(
    ("rivals", "verdict"),
    [
        ({}, Verdict.SUPPORTED),
        ({"full_belief": OTHER}, Verdict.PARTLY),
        ({"batch_belief": OTHER, "full_belief": OTHER}, Verdict.REFUTED),
        ({"tenfold": falling(7.0)}, Verdict.INCONCLUSIVE),
        ({"rmsprop": falling(2.0)}, Verdict.INCONCLUSIVE),
    ],
)
def test_contrasts_first_and_then_both_sizes_of_batch(rivals: dict[str, list[float]], verdict: Verdict) -> None:
    assert judge(made_up(**rivals)).verdict is verdict


def test_the_speed_is_that_of_the_curves() -> None:
    assert speed(made_up(), "batch_belief").multiplier == pytest.approx(1.6, rel=1e-3)
    assert judge(made_up()).intervals["tenfold_factor"].mean == pytest.approx(10, rel=1e-3)


def test_a_multiple_at_which_adam_diverges_is_left_out() -> None:
    measured = made_up()
    measured[0][f"batch_adam_{len(MULTIPLIERS) - 1}"] = [1.0] * 29 + [2e4]
    assert speed(measured, "batch_belief").multiplier == pytest.approx(1.6, rel=1e-3)


def test_length_and_direction_share_the_change_out() -> None:
    swap = effects(made_up())
    assert swap.length.tolist() == pytest.approx([-0.4] * 2)
    assert swap.direction.tolist() == pytest.approx([-0.1] * 2)


def test_a_short_run_has_all_that_is_judged() -> None:
    measured = run(0, "cpu", steps=3)
    assert set(measured) == set(made_up()[0])
    assert measured["batch_steps"] == [1.0, 2.0, 3.0]
    assert measured["rmsprop"] != measured["rmsprop_again"]  # another order of the data: else there is no floor
    arms = [float(measured[f"arm_{arm}"]) for arm in ("aa", "ab", "ba", "bb")]  # type: ignore[arg-type]
    assert arms[1] < arms[0] - 1e-4  # AdaBelief's steps are longer
    assert arms[3] < arms[2] - 1e-4


def test_the_figure_tells_the_speed() -> None:
    left, *_ = plot(made_up()).axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["Adam", "Adam, lr x 1.6", "AdaBelief"]
