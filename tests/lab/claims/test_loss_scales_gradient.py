"""The loss's factor: each verdict from typed-in numbers, the identities, who passes the factor on."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import digits_problem
from truestep.lab.claims.loss_scales_gradient import LABELS, MOVES, OPTIMIZERS, identities, judge, moved, plot, run

ERRORS = ("numel", "kept", "weights", "factor", "added")


def numbers(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{name}_error": 1e-16 for name in ERRORS}
    for name in OPTIMIZERS:
        usual |= {f"{name}_exponent": 1.0, f"{name}_moved": list(MOVES)}
    return [dict(usual), usual | changed]


def both(**changed: float) -> list[Measurement]:
    return [each | changed for each in numbers()]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (numbers(), Verdict.SUPPORTED),
        (both(adam_exponent=0.0), Verdict.PARTLY),
        (both(adam_exponent=0.5), Verdict.INCONCLUSIVE),
        (both(sgd_exponent=0.0), Verdict.INCONCLUSIVE),
        *((numbers(**{f"{name}_error": 1e-3}), Verdict.REFUTED) for name in ERRORS),
    ],
)
def test_identities_first_then_who_takes_the_factor_out(measured: list[Measurement], verdict: Verdict) -> None:
    assert judge(measured).verdict is verdict


def test_all_labels_are_there() -> None:
    assert list(LABELS) == list(OPTIMIZERS)


def test_the_identities_hold_to_round_off() -> None:
    assert max(identities(3, "cpu").values()) < 1e-14


def test_sgd_passes_the_factor_on_and_adam_takes_it_out() -> None:
    problem, _ = digits_problem("cpu", torch.float64)
    one, hundred = (moved("sgd", factor, problem, 0, "cpu") for factor in (1.0, 100.0))
    assert hundred / one == pytest.approx(100, rel=0.05)
    one, hundred = (moved("adam", factor, problem, 0, "cpu") for factor in (1.0, 100.0))
    assert hundred / one == pytest.approx(1, rel=0.01)


def test_the_figure_names_each_optimizer_once_and_its_exponent() -> None:
    (axis,) = plot(both(adam_exponent=0.0)).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(labels) == len(OPTIMIZERS)
    assert "Adam: c^0.00" in labels


def test_a_measurement_has_all_that_is_judged() -> None:
    measured = run(0, "cpu")
    assert set(measured) == set(numbers()[0])
