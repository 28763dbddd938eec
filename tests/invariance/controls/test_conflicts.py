"""Controls that set the same numbers of the same weights are refused beside one another; others are not."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.invariance import ExponentialTwin, HoldAngle, HoldEffectiveLR, UnitSphere

CONTROLS: dict[str, tuple[Any, set[str]]] = {
    "UnitSphere": (lambda *to: UnitSphere(*to, radius=2.0), {"norms"}),
    "ExponentialTwin": (ExponentialTwin, {"lr", "norms"}),
    "HoldEffectiveLR": (lambda *to: HoldEffectiveLR(*to, 0.1), {"lr"}),
    "HoldAngle": (lambda *to: HoldAngle(*to, 0.1), {"lr"}),
}


@pytest.mark.parametrize(("first", "second"), [*product(CONTROLS, CONTROLS)])
def test_two_that_set_the_same_are_refused_and_nothing_is_changed(first: str, second: str) -> None:
    w, v = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    optimizer = SGD([{"params": [w]}, {"params": [v]}], lr=0.1)
    (make, one), (other, two) = CONTROLS[first], CONTROLS[second]
    there = make(optimizer, {"w": w})
    other(optimizer, {"v": v}).close()  # other weights are no matter
    before = w.detach().clone()
    if one & two:
        with pytest.raises(ValueError, match=f"must have no {first} on weights that a new {second} is given: both set"):
            other(optimizer, {"w": w})
        assert torch.equal(w, before)
        there.close()
    other(optimizer, {"w": w}).close()
