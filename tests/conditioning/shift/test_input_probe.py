"""Sums over inputs against the rows gathered by hand."""

from typing import Any

import pytest
import torch
from tests.cases import assert_additive
from torch import Tensor, nn

from truestep.conditioning._layers import grouped_rows
from truestep.conditioning.shift import _input_probe
from truestep.conditioning.shift._input_probe import InputProbe, LayerSums, layer_sums, row_blocks
from truestep.core import moments


def watched(model: nn.Module, *inputs: Any, tracked: bool = False) -> dict[str, LayerSums]:
    """What the probe saw while the model ran."""
    probe = InputProbe(model, tracked=tracked)
    try:
        for x in inputs:
            model(x)
    finally:
        probe.close()
    return probe.sums


@pytest.mark.parametrize("groups", [1, 2])
def test_the_sums_are_the_moments_of_each_group(groups: int) -> None:
    conv, x = nn.Conv2d(4, 2, 3, stride=2, padding=1, groups=groups), torch.randn(3, 4, 7, 6)
    found = watched(conv, x)[""].moments
    assert len(found) == groups
    for mine, rows in zip(found, grouped_rows(conv, x), strict=True):
        assert_additive(moments(rows), [mine])


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_the_sums_do_not_depend_on_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, (3, 2), padding=1, stride=(1, 2)), nn.Flatten(2), nn.Linear(24, 2))
    x = torch.randn(5, 2, 6, 7)
    expected = watched(model, x)
    monkeypatch.setattr(_input_probe, "_CHUNK", chunk)
    for name, sums in watched(model, x).items():
        assert_additive(expected[name], [sums])
    if chunk == 1:
        assert len(list(row_blocks(model[0], x))) == 5


def test_rows_and_deltas_stay_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_input_probe, "_CHUNK", 60)
    for layer, x in ((nn.Conv2d(4, 6, 2, groups=2), torch.randn(5, 4, 3, 3)), (nn.Linear(7, 3), torch.randn(4, 9, 7))):
        out = layer(x)
        out.backward(delta := torch.randn_like(out))
        blocks = list(row_blocks(layer, x, delta))
        assert len(blocks) > 1
        found = torch.stack([deltas.mT @ rows for rows, deltas in blocks]).sum(0)
        assert layer.weight.grad is not None
        torch.testing.assert_close(found.float().view_as(layer.weight), layer.weight.grad)


def test_every_call_of_a_shared_layer_counts() -> None:
    shared = nn.Linear(2, 2)
    found = watched(nn.Sequential(shared, nn.Tanh(), shared), torch.randn(5, 2))
    assert (list(found), float(found["0"].n)) == (["0"], 10)


def test_without_gradient_nothing_is_tracked() -> None:
    layer, x = nn.Linear(2, 2), torch.randn(5, 2)
    with torch.no_grad():
        assert float(watched(layer, x, tracked=True)[""].n) == 0
        assert float(watched(layer, x)[""].n) == 5
    assert float(watched(layer, x, tracked=True)[""].n) == 5


def test_what_changes_the_input_later_is_not_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    with torch.no_grad():
        assert float(watched(nn.Sequential(nn.Identity(), model), torch.tensor([[-1.0, -2.0]]))["1.0"].a.sum()) == -3


def test_a_layer_may_be_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=x)

    assert watched(Named(), torch.ones(3, 2))["fc"].a.tolist() == [[3.0, 3.0]]


def test_a_layer_that_never_runs_has_zeros() -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(4, 2, (3, 2), groups=2), "fc": nn.Linear(3, 1)})
    sums = InputProbe(model, tracked=False).sums
    assert (sums["conv"].aa.shape, sums["fc"].a.shape) == ((2, 12, 12), (1, 3))
    assert not any(float(record.n) for record in sums.values())


def test_only_the_named_layers_have_sums() -> None:
    wide = nn.Sequential(nn.Linear(4, 2), nn.Linear(10**6, 2, device="meta"))  # whose matrix would take 8 TB
    probe = InputProbe(wide, tracked=False, names=["0"])
    wide[0](torch.ones(3, 4))
    probe.close()
    assert {name: float(record.n) for name, record in probe.sums.items()} == {"0": 3}


def test_a_closed_probe_sees_nothing() -> None:
    model = nn.Linear(2, 2)
    probe = InputProbe(model, tracked=False)
    probe.close()
    model(torch.ones(1, 2))
    assert float(probe.sums[""].n) == 0


def test_half_precision_is_summed_in_float64() -> None:
    rows = torch.full((1, 3000, 1), 1.001, dtype=torch.float16)
    assert float(layer_sums(rows).a) == pytest.approx(3000 * float(rows[0, 0, 0]), rel=1e-12)
