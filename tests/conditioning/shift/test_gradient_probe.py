"""Shares and ratios of whole models against autograd, with everything that comes between the layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.cases import assert_additive
from tests.conditioning.shift.nets import batches, mean_fn, net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from truestep.conditioning._layers import grouped_delta_rows, grouped_rows, layers
from truestep.conditioning.centering import BatchCenter1d, BatchCenter2d
from truestep.conditioning.shift import PathSums, ics_share
from truestep.conditioning.shift._gradient_probe import GradientProbe
from truestep.core._mean_loss import mean_loss


def probed(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Any] = lambda out: (out - 1).square().sum()) -> Any:
    """The probe after one batch, with means of 0.3; the loss is a sum over its rows and given as one."""
    means = {name: torch.full((_groups(m), _features(m)), 0.3).double() for name, m in layers(model).items()}
    probe = GradientProbe(model, means)
    try:
        probe.batch(lambda: (mean_loss(loss(model(x)))[0], torch.ones((), dtype=torch.float64)))
    finally:
        probe.close()
    return probe


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, nn.Conv2d) else 1


def _features(module: Any) -> int:
    return module.weight[0].numel()


def assert_shares(model: nn.Sequential, x: Tensor) -> None:
    """The probe's shares are those of inputs and gradients kept one by one, on a chain of modules."""
    inputs, outputs, h = {}, {}, x
    for name, module in model.named_children():
        h = h.clone() if not isinstance(module, nn.Linear | nn.Conv2d) else h  # so that nothing happens in place
        inputs[name], h = h, module(h)
        outputs[name] = h = h if h.requires_grad else h.detach().requires_grad_()
    mine = {name: module for name, module in model.named_children() if name in layers(model)}
    deltas = torch.autograd.grad((h - 1).square().sum(), [outputs[name] for name in mine])
    found = probed(model, x).shares
    assert list(found) == list(mine)
    for delta, (name, module) in zip(deltas, mine.items(), strict=True):
        rows, delta = grouped_rows(module, inputs[name].detach()), grouped_delta_rows(module, delta)  # noqa: PLW2901
        mean = torch.full((_groups(module), _features(module)), 0.3).double()
        assert_additive(ics_share(mean, rows, delta, bias=module.bias is not None), [found[name]])


def test_the_shares_are_those_of_the_gradients_at_the_outputs() -> None:
    assert_shares(net(), batches((9,))[0][0])


def test_frozen_layers_have_a_share_too() -> None:
    model = net()
    for p in (*model[0].parameters(), *model[2].parameters()):
        p.requires_grad_(False)
    assert_shares(model, batches((9,))[0][0])


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_have_the_share_of_all_positions_and_groups(groups: int) -> None:
    conv = nn.Conv2d(2, 4, 3, padding=1, groups=groups, bias=False)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Conv2d(4, 2, 2, stride=2, groups=groups)).double()
    assert_shares(model, torch.randn(3, 2, 5, 6, dtype=torch.float64))


def test_a_checkpointed_layer_counts_once() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            first, norm, last, activation = self
            return activation(checkpoint(lambda x: last(norm(first(x))), x, use_reentrant=False))

    plain = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3), nn.Sigmoid()).double()
    plain[0].requires_grad_(False)
    x = batches((9,))[0][0]
    found, expected = probed(Checkpointed(*plain), x), probed(plain, x)
    for name, share in expected.shares.items():
        assert_additive(share, [found.shares[name]])
    assert_additive(expected.paths["1"], [found.paths["1"]])


def test_calls_without_gradient_do_not_count() -> None:
    model, x = net(), batches((9,))[0][0]

    def loss(out: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = model(5 * x)
        return (out - 1).square().sum() + teacher.sum()

    for name, share in probed(model, x).shares.items():
        assert_additive(share, [probed(model, x, loss).shares[name]])


def test_outputs_that_the_loss_does_not_use_add_nothing() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(4, 2), "norm": nn.LayerNorm(2)}).double()

    def loss(model: Any, x: Tensor) -> Tensor:
        model["norm"](model["idle"](x))
        return model["used"](x).sum()

    probe = GradientProbe(model, {name: torch.ones(1, 4).double() for name in layers(model)})
    probe.batch(lambda: (loss(model, batches((9,))[0][0]), None))
    probe.close()
    assert (float(probe.shares["idle"].whole), float(probe.paths["norm"].full)) == (0, 0)
    assert float(probe.shares["used"].whole) > 0


def weight_gradient(model: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the loss of `probed` by one weight."""
    return torch.autograd.grad((model(x) - 1).square().sum(), weight)[0]


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_the_direct_path_of_batch_centering_is_its_knockout(offset: float) -> None:
    center, fc = BatchCenter1d(5), nn.Linear(4, 5)
    model = nn.Sequential(fc, center, nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(30, 4, dtype=torch.float64) + offset
    found = probed(model, x).paths["1"]
    full = weight_gradient(model, x, fc.weight)
    center.statistics = "direct"
    direct = weight_gradient(model, x, fc.weight)
    assert float(found.weight_ratio) == pytest.approx(float(direct.norm() / full.norm()), rel=1e-10)
    assert float(probed(model, x).paths["1"].weight_ratio) == pytest.approx(1, rel=1e-12)
    assert (float(found.weight_ratio) > 3) == (offset > 0)  # centred gradients are small where the inputs are not


def test_the_direct_path_behind_a_convolution_is_the_knockout_too() -> None:
    center, conv = BatchCenter2d(4), nn.Conv2d(2, 4, 3, groups=2, padding=1)
    model = nn.Sequential(conv, center, nn.Tanh()).double()
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64) + 1
    found = probed(model, x).paths["1"]
    full = weight_gradient(model, x, conv.weight)
    center.statistics = "direct"
    direct = weight_gradient(model, x, conv.weight)
    torch.testing.assert_close(found.weight_direct, direct.square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.weight_full, full.square().sum(), rtol=1e-12, atol=0)


class Detached(nn.Module):
    """Batch, layer or RMS normalization by hand; `direct` cuts the statistics path."""

    def __init__(self, dim: int, *, direct: bool, rms: bool = False) -> None:
        super().__init__()
        self.dim, self.direct, self.rms = dim, direct, rms

    def forward(self, x: Tensor) -> Tensor:
        fixed = x.detach() if self.direct else x
        if self.rms:
            return x / (fixed.square().mean(self.dim, keepdim=True) + 1e-5).sqrt()
        variance = fixed.var(self.dim, correction=0, keepdim=True)
        return (x - fixed.mean(self.dim, keepdim=True)) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("norm", "dim"),
    [
        (nn.BatchNorm1d(4, affine=False), 0),
        (nn.LayerNorm(4), 1),
        (nn.RMSNorm(4, eps=1e-5), 1),
        (nn.InstanceNorm1d(8), 1),  # of one sample: what is a row to the layers is a channel to it
    ],
    ids=str,
)
def test_the_paths_are_those_of_the_layer_written_out(norm: nn.Module, dim: int) -> None:
    x, rms = torch.randn(8, 4, dtype=torch.float64) + 1, isinstance(norm, nn.RMSNorm)
    fc, head = nn.Linear(4, 4).double(), nn.Linear(4, 2).double()
    found = probed(nn.Sequential(fc, norm.double(), head), x).paths["1"]
    squares = []
    for direct in (True, False):
        into = fc(x).detach().requires_grad_()
        loss = (head(Detached(dim, direct=direct, rms=rms)(into)) - 1).square().sum()
        squares.append(torch.autograd.grad(loss, into)[0].square().sum())
        model = nn.Sequential(fc, Detached(dim, direct=direct, rms=rms), head)
        squares.append(weight_gradient(model, x, fc.weight).square().sum())
    expected = PathSums(squares[0], squares[2], squares[1], squares[3])
    assert_additive(expected, [found], tolerance=1e-10)


def test_in_evaluation_no_gradient_passes_the_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()).double().eval()
    found = probed(model, batches((9,))[0][0]).paths["1"]
    assert (float(found.ratio), float(found.weight_ratio)) == (pytest.approx(1), pytest.approx(1))


class Residual(nn.Module):
    """x + fc(norm(x)), as transformers have it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.fc = nn.Linear(4, 4), norm, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.fc(self.norm(x))


def test_what_goes_past_the_layer_is_not_in_its_gradient() -> None:
    x = batches((9,))[0][0]
    model = Residual(nn.LayerNorm(4)).double()
    into = model.first(x).detach()
    own = into.clone().requires_grad_()
    loss = (into + model.fc(model.norm(own)) - 1).square().sum()
    expected = torch.autograd.grad(loss, own)[0].square().sum()
    torch.testing.assert_close(probed(model, x).paths["norm"].full, expected, rtol=1e-12, atol=0)


def test_the_weight_before_is_only_that_of_the_layer_right_before() -> None:
    x = batches((9,))[0][0]
    for between in (nn.ReLU(inplace=True), nn.ReLU(), nn.Linear(6, 6).requires_grad_(False)):
        model = nn.Sequential(nn.Linear(4, 6), between, nn.BatchNorm1d(6), nn.Tanh()).double()
        assert (float(probed(model, x).paths["2"].weight_full) > 0) == isinstance(between, nn.Linear)
    first = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    assert float(probed(first, x).paths["0"].full) > 0  # the data wants no gradient, the layer's input has one


def test_batches_of_different_sizes_weigh_by_their_rows() -> None:
    model, means = net(), {name: torch.ones(1, _features(m)).double() for name, m in layers(net()).items()}
    found = []
    for sizes in ((10,), (3, 7)):
        probe = GradientProbe(model, means)
        for batch in batches(sizes):
            probe.batch(lambda batch=batch: (mean_fn(model, batch), None))
        probe.close()
        found.append(probe.shares)
    for name, share in found[0].items():
        assert_additive(share, [found[1][name]])


def test_the_probe_says_when_no_gradient_can_come() -> None:
    model, x = net(), batches((9,))[0][0]
    probe = GradientProbe(model, {"0": torch.zeros(1, 4).double()})
    with pytest.raises(ValueError, match="`loss_fn` must run the model it is given with gradients"):
        probe.batch(lambda: (x.sum(), None))
    with pytest.raises(ValueError, match="`loss_fn` must run the model it is given with gradients"):
        probe.batch(lambda: (model(x).sum().detach(), None))
    probe.close()
