"""Slopes against layers written out, and the statistics of several ranks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truestep.conditioning.centering import BatchCenter1d, BatchCenter2d
from truestep.conditioning.shift import PathSums, slope


def running(module: Any) -> nn.Module:
    """In evaluation, with running statistics."""
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2.0)
    return module.eval()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...] | None]] = {
    # layer, shape of its input, dimensions of its statistics (None: running ones)
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (6, 4), (0,)),
    "BatchNorm1d of sequences": (lambda: nn.BatchNorm1d(4), (3, 4, 5), (0, 2)),
    "BatchNorm2d without gamma": (lambda: nn.BatchNorm2d(4, affine=False, eps=0.1), (2, 4, 3, 3), (0, 2, 3)),
    "BatchNorm1d in evaluation": (lambda: running(nn.BatchNorm1d(4)), (6, 4), None),
    "BatchNorm2d in evaluation": (lambda: running(nn.BatchNorm2d(4)), (2, 4, 3, 3), None),
    "BatchNorm1d that tracks nothing": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False).eval(),
        (6, 4),
        (0,),
    ),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True, eps=0.1), (3, 4, 5), (2,)),
    "InstanceNorm1d of one sample": (lambda: nn.InstanceNorm1d(4, affine=True), (4, 5), (1,)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4), (2, 4, 3, 3), (2, 3)),
    "InstanceNorm2d of one sample": (lambda: nn.InstanceNorm2d(4, affine=True), (4, 3, 3), (1, 2)),
    "InstanceNorm2d in evaluation": (lambda: nn.InstanceNorm2d(4, affine=True).eval(), (2, 4, 3, 3), (2, 3)),
    "InstanceNorm2d with running statistics": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (2, 4, 3, 3),
        (2, 3),
    ),
    "InstanceNorm2d in evaluation with running statistics": (
        lambda: running(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        (2, 4, 3, 3),
        None,
    ),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(4, affine=True), (2, 4, 2, 2, 2), (2, 3, 4)),
    "LayerNorm": (lambda: nn.LayerNorm(4, eps=0.1), (2, 3, 4), (2,)),
    "LayerNorm over two": (lambda: nn.LayerNorm((3, 4)), (5, 3, 4), (1, 2)),
    "LayerNorm without gamma": (lambda: nn.LayerNorm(4, elementwise_affine=False), (5, 4), (1,)),
}


def held_fixed(module: Any, x: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    """The layer written out, with constant statistics."""
    shape = [-1, *[1] * (x.dim() - 1 - (x.shape[0] != 4))]  # channels are 4, samples never
    if dims is None:
        mean, variance = module.running_mean.view(shape), module.running_var.view(shape)
    else:
        mean, variance = x.detach().mean(dims, keepdim=True), x.detach().var(dims, correction=0, keepdim=True)
    out = (x - mean) / (variance + module.eps).sqrt()
    if module.weight is None:
        return out
    layer_norm = isinstance(module, nn.LayerNorm)
    return out * module.weight if layer_norm else out * module.weight.view(shape)


def assert_slope(module: Any, x: Tensor, out: Tensor) -> None:
    """`out` is what the layer gives for `x`, and its derivative is the slope."""
    torch.testing.assert_close(module(x.detach()), out, rtol=1e-10, atol=1e-10)
    delta = torch.randn_like(x)
    (expected,) = torch.autograd.grad(out, x, delta)
    torch.testing.assert_close(slope(module, x) * delta, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_the_slope_is_the_gradient_with_constant_statistics(name: str) -> None:
    build, shape, dims = LAYERS[name]
    module = build().double()
    for p in module.parameters():
        nn.init.normal_(p) if p is getattr(module, "weight", None) else None
    x = (2 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    assert_slope(module, x, held_fixed(module, x, dims))


@pytest.mark.parametrize("shape", [4, (3, 4)])
@pytest.mark.parametrize("eps", [0.1, None])
@pytest.mark.parametrize("gain", [True, False])
def test_the_slope_of_rms_norm_has_the_mean_square(shape: Any, eps: float | None, gain: bool) -> None:
    module = nn.RMSNorm(shape, eps=eps, elementwise_affine=gain).double()
    if gain:
        nn.init.normal_(module.weight)
    x = (2e-7 * torch.randn(5, 3, 4, dtype=torch.float64) + 1e-7).requires_grad_()  # so small that eps counts
    dims = tuple(range(-len(module.normalized_shape), 0))
    square = x.detach().square().mean(dims, keepdim=True)
    out = x / (square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()
    assert_slope(module, x, out * module.weight if gain else out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rms_norm_s_own_eps_is_the_one_that_it_computes_with(dtype: torch.dtype) -> None:
    x = torch.full((2, 4), 2e-4, dtype=dtype)
    module = nn.RMSNorm(4, elementwise_affine=False)
    torch.testing.assert_close(slope(module, x) * x.double(), module(x).double(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (2, 4, 3, 2)])
def test_the_slope_of_group_norm_has_the_statistics_of_each_group(groups: int, shape: tuple[int, ...]) -> None:
    module = nn.GroupNorm(groups, 4, eps=0.1).double()
    nn.init.normal_(module.weight)
    x = (2 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    parts = x.reshape(shape[0], groups, -1)
    fixed = parts.detach()
    out = (parts - fixed.mean(-1, keepdim=True)) / (fixed.var(-1, correction=0, keepdim=True) + 0.1).sqrt()
    assert_slope(module, x, out.view(shape) * module.weight.view(1, -1, *[1] * (len(shape) - 2)))


@pytest.mark.parametrize("statistics", ["full", "direct"])
@pytest.mark.parametrize(("build", "shape"), [(BatchCenter1d, (5, 4)), (BatchCenter2d, (2, 4, 3, 3))])
def test_batch_centering_divides_by_nothing(build: Any, shape: tuple[int, ...], statistics: str) -> None:
    assert float(slope(build(4, statistics=statistics), torch.randn(shape))) == 1


def test_the_ratios_are_of_norms() -> None:
    sums = PathSums(*torch.tensor([9.0, 4.0, 100.0, 1.0], dtype=torch.float64))
    assert (float(sums.ratio), float(sums.weight_ratio)) == (1.5, 10.0)
    none = PathSums(*torch.zeros(4, dtype=torch.float64))
    assert bool(none.ratio.isnan() & none.weight_ratio.isnan())


def test_a_synchronized_layer_has_the_statistics_of_all_ranks(ranks: list[Any]) -> None:
    for seen in ranks:
        torch.testing.assert_close(seen["slope"], seen["whole slope"], rtol=1e-12, atol=0)
