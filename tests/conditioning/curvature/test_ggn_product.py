"""GGN products against J'HJ written out; the outputs are those of one call, and the loss sees nothing else."""

from typing import Any

import pytest
import torch
from tests.conditioning.curvature.nets import (
    assert_same_state,
    batch_for,
    dense_ggn,
    entropy,
    flat,
    mlp,
    named,
    state_of,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep.conditioning.curvature import ggn_product, hessian_product


@pytest.mark.parametrize("norm", [False, True])
def test_it_is_the_dense_matrix_times_the_vector(norm: bool) -> None:
    model = mlp(norm=norm)
    batch = batch_for(model)
    before = state_of(model)
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    torch.set_rng_state(before[-2])
    found = ggn_product(model, batch, entropy, named(model, v))
    assert_same_state(model, before)
    torch.testing.assert_close(flat(list(found.values())), dense_ggn(model, batch) @ v, rtol=1e-12, atol=1e-14)


def test_of_a_linear_model_it_is_the_hessian() -> None:
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(0, 3, (7,))
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    torch.testing.assert_close(ggn_product(model, (x, y), entropy, v), hessian_product(model, (x, y), entropy, v))


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.a(x).tanh()
        return {"hidden": hidden, "more": (self.b(hidden), x, "a word")}


def test_an_output_made_of_another_is_an_output_of_its_own() -> None:
    torch.manual_seed(0)
    model, x, y = TwoOutputs().double(), torch.randn(5, 3, dtype=torch.float64), torch.randint(0, 2, (5,))
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = model.a, model.b

        def forward(self, x: Tensor) -> Tensor:
            return model(x)["more"][0]

    found = ggn_product(model, x, lambda m, x: cross_entropy(m(x)["more"][0], y), v)
    torch.testing.assert_close(found, ggn_product(Last(), (x, y), entropy, v))


def test_a_loss_may_write_to_what_it_reads() -> None:
    model = mlp((3, 2, 2))
    batch = batch_for(model)
    v = named(model, torch.randn(14, dtype=torch.float64))
    found = ggn_product(model, batch, lambda m, b: cross_entropy(m(b[0]).mul_(2), b[1]), v)
    torch.testing.assert_close(found, ggn_product(model, batch, lambda m, b: cross_entropy(2 * m(b[0]), b[1]), v))


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_ggn_is_refused() -> None:
    model = mlp((3, 2, 2))
    batch = batch_for(model)
    v = named(model, torch.ones(14, dtype=torch.float64))
    with pytest.raises(ValueError, match="exactly once, found 2 calls"):
        ggn_product(model, batch, lambda m, b: entropy(m, b) + entropy(m, b), v)
    with pytest.raises(ValueError, match="exactly once, found 0 calls"):
        ggn_product(model, batch, lambda m, b: m[0](b[0]).square().mean(), v)
    with pytest.raises(ValueError, match=r"another way to 2\.weight"):
        ggn_product(model, batch, lambda m, b: entropy(m, b) + m[2].weight.square().sum(), v)
    with pytest.raises(ValueError, match="linear"):
        ggn_product(model, batch, lambda m, b: m(b[0]).mean(), v)
    assert not model._forward_hooks  # none is left behind, also after an error
