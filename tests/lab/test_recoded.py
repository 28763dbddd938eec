"""Recoded nets: another parameterization of the same function."""

import pytest
import torch
from torch import Tensor, nn

from truestep.lab._recoded import MOST, Affine, Maker, difference, identity, mixing, recoded, shifts, tanh_twin, units


def net() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)).double()
    return model, torch.randn(7, 4, dtype=torch.float64)


@pytest.mark.parametrize("maker", [identity, shifts, units, mixing])
@pytest.mark.parametrize("outputs", [True, False])
def test_the_function_is_the_same(maker: Maker, outputs: bool) -> None:
    model, x = net()
    twin = recoded(model, maker, torch.Generator().manual_seed(1), outputs=outputs)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-11, atol=1e-12)
    apart = difference(twin[1].weight.detach(), model[0].weight.detach()) + difference(
        twin[1].bias.detach(), model[0].bias.detach()
    )
    assert (apart > 0.01) == (maker is not identity)


def test_without_first_the_networks_inputs_are_left_alone_and_the_second_layers_are_not() -> None:
    model, x = net()
    twin = recoded(model, shifts, torch.Generator().manual_seed(1), outputs=False, first=False)
    torch.testing.assert_close(twin[0](x), x)
    torch.testing.assert_close(twin[1].weight, model[0].weight)
    assert isinstance(twin[4], Affine)
    assert float(twin[4].offset.abs().min()) > 0


def test_the_tanh_twin_has_tanh_units_and_the_same_function() -> None:
    model, x = net()
    twin = tanh_twin(model)
    assert [type(module) for module in twin][1::2] == [nn.Tanh, nn.Tanh]
    torch.testing.assert_close(twin(x), model(x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(twin[0].weight, model[0].weight / 2)


def test_the_makers_are_what_their_names_say() -> None:
    generator = torch.Generator().manual_seed(0)
    (eye, _), (diagonal, offset), (mixed, _) = shifts(6, generator), units(6, generator), mixing(6, generator)
    torch.testing.assert_close(eye, torch.eye(6, dtype=torch.float64))
    assert float((diagonal - diagonal.diagonal().diag()).abs().max()) == 0
    assert 1 / MOST <= float(diagonal.diagonal().min()) < float(diagonal.diagonal().max()) <= MOST
    assert bool((offset != 0).all())
    assert int((mixed != 0).sum()) == 36


def test_a_map_is_no_parameter() -> None:
    assert list(Affine(*identity(2, torch.Generator())).parameters()) == []


def test_what_is_not_finite_is_infinitely_far() -> None:
    one = torch.zeros(2, dtype=torch.float64)
    assert difference(one, torch.tensor([0.5, -2.0], dtype=torch.float64)) == 2.0
    assert difference(one, torch.tensor([0.0, torch.inf], dtype=torch.float64)) > 1e300
