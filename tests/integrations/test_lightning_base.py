"""What Lightning's callbacks share: whose gradients, on which device, and in which runs."""

from types import SimpleNamespace

import pytest
import torch
from tests.integrations.batches import cross_entropy, equal, linear
from tests.integrations.modules import Classifier

from truestep.integrations import _lightning_base
from truestep.integrations._lightning_base import gradients, refuse, scalar
from truestep.integrations.lightning import AccumulationMonitor, ShortWindow, TallyCallback, check
from truestep.loss import Tally


def test_without_lightning_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lightning_base, "Callback", object)
    for build in (
        ShortWindow,
        AccumulationMonitor,
        lambda: TallyCallback(Tally()),
        lambda: check(Classifier(), cross_entropy, equal(2)),
    ):
        with pytest.raises(ImportError, match=r"pip install 'truestep\[lightning\]'"):
            build()


def test_a_strategy_that_accumulates_by_itself_is_refused() -> None:
    trainer = SimpleNamespace(strategy=SimpleNamespace(handles_gradient_accumulation=True))
    with pytest.raises(ValueError, match="`strategy` must leave accumulation to Lightning"):
        refuse(trainer, Classifier())


def test_parameters_without_a_gradient_are_left_out() -> None:
    model = linear()
    model.weight.grad = torch.ones_like(model.weight)
    (found,) = gradients(torch.optim.SGD(model.parameters(), lr=0.1))
    assert found is model.weight.grad


def test_a_number_comes_in_float64_on_the_module_s_device() -> None:
    found = scalar(3, SimpleNamespace(device=torch.device("meta")))
    assert (found.dtype, found.device.type, found.shape) == (torch.float64, "meta", ())
