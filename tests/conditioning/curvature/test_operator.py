"""Both curvatures are symmetric, count their products, and are spent when the weights change."""

import pytest
import torch
from tests.conditioning.curvature.nets import batch_for, entropy, mlp

from truestep.conditioning.curvature._ggn_product import GGN
from truestep.conditioning.curvature._hessian_product import Hessian
from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._problem import problem


@pytest.mark.parametrize("kind", [Hessian, GGN])
def test_products_are_linear_and_counted_and_buffers_do_not_spoil_them(kind: type[AbstractCurvature]) -> None:
    model = mlp(norm=True)
    curvature = kind(problem(model, batch_for(model), entropy))
    u, v = ([torch.randn_like(p) for p in curvature.problem.tensors] for _ in range(2))
    model(batch_for(model)[0])  # moves the running statistics between two products
    left = curvature.product([2 * a - b for a, b in zip(u, v, strict=True)])
    right = [2 * a - b for a, b in zip(curvature.product(u), curvature.product(v), strict=True)]
    torch.testing.assert_close(left, right)
    assert curvature.products == 3


@pytest.mark.parametrize("kind", [Hessian, GGN])
def test_after_a_step_torch_says_that_the_graph_is_old(kind: type[AbstractCurvature]) -> None:
    model = mlp()
    curvature = kind(problem(model, batch_for(model), entropy))
    with torch.no_grad():
        model[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        curvature.product([torch.ones_like(p) for p in curvature.problem.tensors])
