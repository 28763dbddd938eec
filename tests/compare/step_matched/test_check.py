"""Arguments that cannot be, or not together, are refused by name."""

from typing import Any

import pytest
import torch
from torch.optim import LBFGS, SGD

from truestep.compare.step_matched._check import check_arguments
from truestep.compare.step_matched._replay import Replay

RECORD = Replay(("w",), torch.zeros(1, 1, 3, dtype=torch.float64))
FUNCTION = {"norm": "function", "probe": print}


def check(**settings: Any) -> None:
    optimizer = SGD([torch.ones(1, requires_grad=True)])
    arguments: dict[str, Any] = {"optimizer": optimizer, "length": 0.1, "norm": "l2", "scope": "global"}
    check_arguments(**{"probe": None, "decay": "in", **arguments, **settings})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizer": LBFGS([torch.ones(1)])}, "`optimizer` must not be LBFGS"),
        ({"norm": "l1"}, "`norm` must be one of 'l2', 'rms', 'linf', 'relative', 'angular', 'function', found 'l1'"),
        ({"scope": "row"}, "`scope` must be one of 'global', 'group', 'tensor', 'unit', found 'row'"),
        ({"decay": "none"}, "`decay` must be one of 'in', 'out', found 'none'"),
        ({"probe": print}, "`probe` must be None for norm='l2', which looks at the weights alone"),
        ({"norm": "function"}, "`probe` must be a callable for norm='function' .* found None"),
        ({**FUNCTION, "scope": "tensor"}, "`scope` must be 'global' for norm='function': .* found 'tensor'"),
        ({"length": -1.0}, "`length` must be a number from 0"),
        ({"length": 3.2, "norm": "angular"}, r"`length` must be a number from 0 to below 3\.14"),
        ({"length": "0.1"}, "`length` must be a number, a list of them, .* found str"),
        ({"length": None}, "`length` must be a number, a list of them, .* found NoneType"),
        ({"length": RECORD, "norm": "linf"}, "`norm` must be .* for a `replay`, found 'linf'.* the largest entry"),
        ({"length": RECORD, **FUNCTION}, "`norm` must be .* for a `replay`, found 'function'.* to the outputs"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check(**settings)


@pytest.mark.parametrize("length", [0, 0.5, [0.1], (0.1,), torch.ones(1), abs, SGD([torch.ones(1)]), RECORD])
def test_what_can_be_is_not(length: Any) -> None:
    assert not refused(length=length)
    assert not refused(length=length, norm="angular", scope="unit", decay="out")
    assert refused(length=length, **FUNCTION) is (length is RECORD)  # which does not hold what the outputs did


def refused(**settings: Any) -> bool:
    try:
        check(**settings)
    except ValueError:
        return True
    return False
