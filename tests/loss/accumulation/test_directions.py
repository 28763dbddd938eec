"""Each wrong direction has its name, from the weights of the micro-batches alone."""

from typing import Any

import pytest
from tests.loss.accumulation.evidence import evidence, fitted, turned

from truestep.loss.accumulation._cause import cause
from truestep.loss.accumulation._comparison import Fit

SHARES = (0.5, 0.3, 0.2)
NAMED: dict[str, tuple[Fit | None, Fit | None, str]] = {
    "mean of means": (
        fitted(1 / 3, 1 / 3, 1 / 3),
        fitted(*SHARES, off=0.2),
        "shares of the union batch are 0.500, 0.3",
    ),
    "not divided": (
        fitted(1.0, 1.0, 1.0, mean=3.0),
        fitted(*SHARES, off=0.2),
        "missing division, the mean of means comes 3",
    ),
    "times 1.7": (fitted(mean=1.7), fitted(*SHARES, off=0.2), "comes 1.7 times"),
    "shares unknown": (fitted(), fitted(off=0.2), "mean of means: each of 3 micro-batches counts alike"),
    "lost": (fitted(0.0, 0.0, 1.0, off=0.9), fitted(*SHARES, off=0.2), "of 3, number 1, 2 left no trace"),
    "nothing to lose": (fitted(0.0, 0.5, 0.9, off=0.9), fitted(0.0, 0.7, 0.3, off=0.9), "wrong weights"),
    "coupled": (fitted(1 / 3, 1 / 3, 1 / 3), fitted(outside=0.4, off=0.5), "batch-coupled loss: 0.4 of"),
    "own weights": (
        fitted(0.1, 0.5, 0.3, off=0.3),
        fitted(*SHARES, off=0.2),
        "count 0.100, 0.500, 0.300 instead of 0.5",
    ),
    "other": (fitted(0.3, 0.3, 0.3, outside=0.3, off=0.3), fitted(*SHARES, off=0.2), "another gradient: cosine 0.97"),
    "not looked at": (None, None, "another gradient: cosine 0.97"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_direction_has_its_name(name: str) -> None:
    yours, union, sentence = NAMED[name]
    told = cause(evidence(turned(0.2), k=3, yours=yours, union=union))
    assert sentence in told.sentence
    assert told.remedy


@pytest.mark.parametrize(("left", "name"), [(0.01, "lost micro-batches"), (0.04, "wrong weights")])
def test_what_clipping_leaves_is_not_lost_however_coarse_the_gradients(left: float, name: str) -> None:
    yours, union = fitted(left, 0.3, 0.9, off=0.9), fitted(*SHARES, off=0.2)
    assert name in cause(evidence(turned(0.6), k=3, tolerance=3e-2, yours=yours, union=union)).sentence


def test_many_micro_batches_are_not_all_listed() -> None:
    shares: Any = [i / 210 for i in range(1, 21)]
    told = cause(evidence(turned(0.2), k=20, yours=fitted(*[0.05] * 20), union=fitted(*shares, off=0.4)))
    assert told.sentence.endswith("0.005, 0.010, 0.014, 0.019, 0.024, 0.029, 0.033, ...")
