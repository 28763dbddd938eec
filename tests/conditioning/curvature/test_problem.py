"""Which parameters are differentiated by, under which names, and what runs."""

import pytest
import torch
from tests.conditioning.curvature.nets import batch_for, entropy, mlp
from torch import nn

from truestep.conditioning.curvature import hessian_product
from truestep.conditioning.curvature._problem import differentiated, problem


def test_names_are_those_of_the_bare_model_and_frozen_ones_are_left_out() -> None:
    model = mlp((3, 2, 2))
    model[0].bias.requires_grad_(False)
    one = problem(nn.DataParallel(model), None, entropy)
    assert list(one.parameters) == ["0.weight", "2.weight", "2.bias"]
    assert one.model is model
    assert one.size == 12


def test_a_compiled_model_is_run_bare() -> None:
    model = mlp((3, 2, 2))
    batch = batch_for(model)
    v = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(hessian_product(compiled, batch, entropy, v), hessian_product(model, batch, entropy, v))


def test_buffers_are_copies_within_and_the_same_objects_after() -> None:
    model = mlp(norm=True)
    model[4].running_mean = model[1].running_mean = torch.zeros(5, dtype=torch.float64)  # one buffer in two places
    own = [(m, dict(m._buffers)) for m in model.modules()]
    with problem(model, None, entropy).undisturbed():
        assert model[1].running_mean is model[4].running_mean is not own[1][1].get("running_mean")
        model[1].running_mean.add_(1)
    for module, buffers in own:
        assert all(module._buffers[name] is x for name, x in buffers.items())
    assert float(model[1].running_mean.abs().sum()) == 0.0


def test_what_nothing_depends_on_has_derivative_zero() -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    found = differentiated([a * 2, torch.zeros(2)], [a, b], [torch.ones(2), torch.ones(2)])
    assert [x.tolist() for x in found] == [[2.0, 2.0], [0.0] * 3]
    assert differentiated([torch.zeros(2)], [a], [torch.ones(2)])[0].tolist() == [0.0, 0.0]


def test_sparse_gradients_are_refused_in_a_line() -> None:
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Linear(3, 1))
    v = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"dense gradients, found a sparse one of shape \(7, 3\): set `sparse`"):
        hessian_product(model, torch.tensor([1, 2]), lambda m, x: m(x).square().mean(), v)


@pytest.mark.usefixtures("unchecked")
def test_complex_parameters_are_refused() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="real parameters, found complex w"):
        problem(model, None, entropy)
