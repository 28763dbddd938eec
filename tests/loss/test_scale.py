"""The factors: each by its definition, and what makes a loss's unit disappear."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.loss._scale import power_of_two, step_factor


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(
    ("scale", "expected"), [("mean", 1 / 4), ("unit", 1 / 9), ("sqrt", 1 / 6), ("ref", 1 / (4 * 5)), ("ngd", 1 / 5)]
)
def test_each_factor_by_its_definition(scale, expected: float) -> None:
    assert step_factor(scale, f64(9), f64(4), f64(5)) == expected


@given(c=st.integers(-30, 30))
def test_what_happens_to_the_step_when_the_loss_is_multiplied(c: int) -> None:
    """The gradient and its norm, the loss and the reference grow by 2^c; the factor must undo it."""
    for scale, power in (("mean", 0), ("unit", -c), ("ref", -c), ("ngd", -c)):
        other = step_factor(scale, f64(9) * 2.0**c, f64(4), f64(5) * 2.0**c)
        assert other == step_factor(scale, f64(9), f64(4), f64(5)) * 2.0**power
    root = step_factor("sqrt", f64(9) * 4.0**c, f64(4))
    assert root == step_factor("sqrt", f64(9), f64(4)) * 2.0**-c  # half of the power: sqrt keeps a trace of the unit


@pytest.mark.parametrize("scale", ["mean", "ref", "unit", "sqrt", "ngd"])
def test_nothing_to_divide_by_is_a_factor_of_zero(scale) -> None:
    assert step_factor(scale, f64(1), f64(0), f64(1)) == 0
    for bad in (0.0, -1.0, torch.inf, torch.nan):
        if scale in ("unit", "sqrt"):
            assert step_factor(scale, f64(bad), f64(4)) == 0
        if scale in ("ref", "ngd"):
            assert step_factor(scale, f64(1), f64(4), f64(bad)) == 0


@given(weight=st.floats(1e-12, 1e12))
def test_the_pre_scale_is_an_exact_power_of_two_just_below_the_inverse(weight: float) -> None:
    power = power_of_two(f64(weight))
    mantissa, _ = torch.frexp(power)
    assert mantissa == 0.5
    assert 0.5 <= power * weight < 1
