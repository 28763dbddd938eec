"""What a measurement may change of a model, and must not leave behind."""

import sys

import pytest
import torch
from torch import nn

from truestep.conditioning.shift._alone import alone


def test_all_that_a_pass_changes_is_put_back() -> None:
    model = nn.BatchNorm1d(2)
    drawn = torch.get_rng_state()
    with alone(model):
        model(torch.randn(4, 2)).sum().backward()
        model.weight.data.zero_()
        model.eval()
    assert (model.weight.tolist(), model.weight.grad, model.training) == ([1.0, 1.0], None, True)
    assert int(model.num_batches_tracked or 0) == 0
    assert torch.get_rng_state().equal(drawn)


def test_nothing_is_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch._dynamo", "torch.distributed.fsdp"):  # seconds each
        monkeypatch.delitem(sys.modules, name, raising=False)
    with alone(nn.Linear(1, 1)):
        pass
    assert not {"torch._dynamo", "torch.distributed.fsdp"} & set(sys.modules)
