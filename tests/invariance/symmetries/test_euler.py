"""Euler's identities of a scale-invariant loss, to 1e-12 in float64 with a norm layer's eps of 1e-30."""

from __future__ import annotations

import pytest
import torch
from tests.invariance.symmetries.nets import CASES, G, V, loss_fn
from torch import Tensor, nn

# units that have one norm: a row, all rows, the rows of a group
NARROWEST = {
    ("MLP BN", "fc2.weight"): 1,
    ("CNN BN", "conv2.weight"): 1,
    ("MLP WeightNorm", f"fc2.{V}"): 1,
    ("MLP LN", "fc2.weight"): 8,
    ("ResNet GN", "conv2.weight"): 2,
    ("QK-norm", "blocks.0.q.weight"): 4,
}


def exact(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model, (x, y) = CASES[name].build().double(), CASES[name].batch(16)
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30
    return model, (x.double() if x.is_floating_point() else x, y)


def gradient(model: nn.Module, batch: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
    w = dict(model.named_parameters())[name]
    (g,) = torch.autograd.grad(loss_fn(model, batch), w)
    return w, g


def cosines(w: Tensor, g: Tensor, width: int) -> Tensor:
    w, g = (x.detach().reshape(-1, width * x[0].numel()) for x in (w, g))
    return torch.linalg.vecdot(w, g).abs() / (w.norm(dim=1) * g.norm(dim=1)).clamp_min(1e-30)


@pytest.mark.parametrize(("net", "name"), NARROWEST)
def test_the_gradient_is_orthogonal_to_each_part_that_has_a_norm_of_its_own(net: str, name: str) -> None:
    w, g = gradient(*exact(net), name)
    assert cosines(w, g, NARROWEST[net, name]).max() < 1e-12


@pytest.mark.parametrize(("net", "name"), [key for key, width in NARROWEST.items() if width > 1])
def test_it_is_not_to_a_narrower_part(net: str, name: str) -> None:
    w, g = gradient(*exact(net), name)
    assert cosines(w, g, NARROWEST[net, name] // 2).max() > 1e-2


@pytest.mark.parametrize(("net", "name"), NARROWEST)
def test_the_gradient_of_a_part_is_homogeneous_of_degree_minus_one(net: str, name: str) -> None:
    model, batch = exact(net)
    w, g = gradient(model, batch, name)
    part = slice(NARROWEST[net, name])
    with torch.no_grad():
        w[part] *= 5.0
    expected = g.clone()
    expected[part] /= 5.0
    torch.testing.assert_close(gradient(model, batch, name)[1], expected, rtol=0, atol=1e-12 * float(g.abs().max()))


def test_the_length_of_a_weight_normed_layer_is_seen() -> None:
    w, g = gradient(*exact("MLP WeightNorm"), f"fc2.{G}")
    assert cosines(w.T, g.T, 1).max() > 1e-2
