"""The eps of norm layers is made smaller for a while, and nothing else."""

import pytest
from torch import nn

from truestep.invariance.symmetries._eps import LESS, less_eps


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eps, self.variance_epsilon = 0.1, 1e-6


def test_guards_of_denominators_are_divided_and_put_back_also_after_an_exception() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-3), nn.RMSNorm(2), Noisy())
    seen = list[object]()

    def stopped() -> None:
        with less_eps(model):
            seen.extend([model[0].eps, model[1].eps, model[2].eps, model[2].variance_epsilon])
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert seen == [1e-3 / LESS, None, 0.1, 1e-6 / LESS]
    assert (model[0].eps, model[2].eps, model[2].variance_epsilon) == (1e-3, 0.1, 1e-6)
