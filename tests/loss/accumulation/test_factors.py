"""Each factor has its name, from numbers alone; the factor of half of the window tells apart what else is alike."""

from typing import Any

import pytest
from tests.loss.accumulation.evidence import evidence, multiple

from truestep.loss.accumulation._cause import cause
from truestep.loss.accumulation._comparison import Comparison

NAMED: dict[str, tuple[float, float | None, dict[str, Any], str]] = {
    "k added": (4.0, 2.0, {}, "missing division: 4 micro-batches"),
    "k added, half not seen": (4.0, None, {}, "missing division: 4 micro-batches"),
    "always 4": (4.0, 4.0, {}, "a constant factor: the gradient is 4 times"),
    "a constant K of 8": (0.5, 0.25, {}, "short window: the loop divides by 8, but the window has 4"),
    "a constant K of 2": (2.0, 1.0, {}, "wrong divisor: the loop divides by 2, but the window has 4"),
    "k twice": (0.25, 0.5, {}, "divided twice"),
    "a constant K of 16": (0.25, 0.125, {}, "divides by 16"),
    "always a quarter": (0.25, 0.25, {}, "a constant factor: the gradient is 0.25 times that of the union batch, 1/4"),
    "the sum of weights": (120.0, 60.0, {"weight": 120.0}, "summed over 120 terms and not divided"),
    "a count": (70.0, 35.0, {"counts": (12, 70)}, "summed over 70 terms and not divided"),
    "a sum over k": (30.0, 30.0, {"weight": 120.0}, "summed over 120 terms and divided by the 4 micro-batches only"),
    "a shifted label": (15 / 16, 15 / 16, {"lengths": (16,)}, "looks like a shifted label that is counted: 0.9375"),
    "not quite a shifted label": (0.9995, 0.9995, {"lengths": (1024,)}, "a constant factor"),
    "a shift or a divisor of 16": (15 / 16, 7 / 16, {"lengths": (16,), "k": 15}, "short window"),
    "padding counted": (0.625, 0.625, {"weight": 120.0, "counts": (12, 192)}, "divided by 192 terms"),
    "class weights not counted": (1.28, 1.28, {"weight": 128.0, "counts": (100,)}, "divided by 100 terms"),
    "GradScaler": (65536.0, 65536.0, {}, "a power of two"),
    "GradScaler, added": (
        4 * 65536.0,
        2 * 65536.0,
        {},
        "65536 times that of the union batch, a power of two; and a mi",
    ),
    "ignored counted": (0.625, 0.625, {"kept": ((120, 192),)}, "looks like ignored targets that are counted: 0.6250"),
    "no ignored targets": (0.625, 0.625, {"weight": 50.0, "kept": ((120, 192),)}, "a constant factor"),
    "its own unit": (0.5, 0.25, {"k": 3, "loss": 2.0, "half_loss": 4.0}, "divided by the loss itself"),
    "the root of it": (0.5, 1 / 3, {"k": 3, "loss": 4.0, "half_loss": 9.0}, 'divided by its root (scale="sqrt")'),
    "no unit": (0.5, 0.4, {"k": 3, "loss": 2.0, "half_loss": 4.0}, "depends on the window: 0.5 on all of it, 0.4"),
    "no loss": (0.5, 0.4, {"k": 3, "loss": 0.0}, "depends on the window"),
    "anything": (1.37, 1.37, {}, "a constant factor: the gradient is 1.37 times"),
    "anything that varies": (1.37, 1.52, {}, "a factor that depends on the window: 1.37 on all of it, 1.52 on"),
    "uphill": (-1.0, -1.0, {}, "wrong sign"),
    "next to nothing": (1e-300, 1e-300, {}, "a constant factor"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_factor_has_its_name(name: str) -> None:
    factor, half, facts, sentence = NAMED[name]
    told = cause(evidence(multiple(factor), half=half, **facts))
    assert sentence in told.sentence
    assert told.remedy


@pytest.mark.parametrize(("half_norm", "named"), [(0.2, True), (0.2001, True), (0.21, False)])
def test_equal_norms_of_window_and_half_are_clipping(half_norm: float, named: bool) -> None:
    half = Comparison(half_norm, 2.5, half_norm / 2.5, 1.0, 1 - half_norm / 2.5, 0.0)
    told = cause(evidence(multiple(0.2), half=half))
    assert (
        told.sentence.startswith("clipped: on all of the window and on half of it the gradient has norm 0.2") == named
    )
    assert "check the loop up to and without clipping" in told.remedy


def test_equal_norms_of_another_direction_are_no_clipping() -> None:
    half = Comparison(0.2, 2.5, 0.07, 0.9, 0.93, 0.4)
    assert "clipped" not in cause(evidence(multiple(0.2), half=half)).sentence


def test_equal_norms_of_equal_gradients_are_a_constant_factor() -> None:
    assert "a constant factor" in cause(evidence(multiple(0.37), half=0.37)).sentence


def test_a_factor_that_depends_on_the_window_is_no_wrong_direction() -> None:
    told = cause(evidence(multiple(0.37), half=0.41))
    assert "the direction is right, the loop rescales the step" in told.sentence
    assert 'scale="mean"' in told.remedy


def test_a_single_micro_batch_is_never_a_missing_division() -> None:
    assert "missing" not in cause(evidence(multiple(1.5), k=1)).sentence
    assert "constant factor" in cause(evidence(multiple(1.5), k=1)).sentence
