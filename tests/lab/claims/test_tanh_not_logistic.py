"""Tanh instead of logistic: each verdict from typed-in steps, the twin's function, and a short run."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._covariate_shift import Stack, images
from truestep.lab._variants import VARIANTS
from truestep.lab.claims.tanh_not_logistic import ACTIVATIONS, TWIN, judge, plot, run, twin


def typed_in(usual: float, recoded: float) -> Measurement:
    steps = {"tanh": 20.0, "tanh + 1": 60.0, "logistic - 1/2": 50.0, "logistic": usual, TWIN: recoded}
    return {f"{name}, none": value for name, value in steps.items()}


@pytest.mark.parametrize(
    ("one", "two", "verdict"),
    [
        (typed_in(150.0, 60.0), typed_in(150.0, 60.0), Verdict.SUPPORTED),
        (typed_in(150.0, 20.0), typed_in(150.0, 20.0), Verdict.PARTLY),
        (typed_in(20.0, 24.0), typed_in(20.0, 24.0), Verdict.REFUTED),
        (typed_in(20.0, 20.0), typed_in(60.0, 60.0), Verdict.INCONCLUSIVE),
    ],
)
def test_both_starts_count(one: Measurement, two: Measurement, verdict: Verdict) -> None:
    assert judge([one, two]).verdict is verdict


def test_the_twin_computes_the_same() -> None:
    x, _ = images(0)
    net = Stack("tanh", VARIANTS["none"], 1, seed=0)
    with torch.no_grad():
        for b in net.biases:
            b.normal_(generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(twin(net, 2, 0, "cpu", torch.float64)(x), net(x).expand(2, -1, -1))


def test_a_short_run_has_all_arms() -> None:
    measured = run(0, "cpu", steps=1)
    assert all(measured[f"{name}, none"] == 2 for name in (*ACTIVATIONS, TWIN))


def test_the_figure_has_a_column_for_each() -> None:
    (axis,) = plot([typed_in(150.0, 60.0)]).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == [*ACTIVATIONS, TWIN]
