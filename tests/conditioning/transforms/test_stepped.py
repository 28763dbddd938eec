"""Which layers are transformed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.conditioning.transforms import _stepped
from truestep.conditioning.transforms._stepped import Newcomers, stepped_layers


def test_frozen_computed_and_foreign_weights_are_left_alone() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(model[2])
    optimizer = SGD([p for layer in (model[0], model[1], model[2], model[3]) for p in layer.parameters()])
    assert list(stepped_layers(nn.DataParallel(model), optimizer, biased=False)) == ["3"]


def test_layers_that_share_weight_and_bias_are_one() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight, second.bias = first.weight, first.bias
    model = nn.Sequential(first, second)
    (layer,) = stepped_layers(model, SGD(model.parameters()), biased=True).values()
    assert layer.modules == (first, second)


def test_a_weight_that_is_also_an_embedding_is_left_alone_with_a_warning() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(5, 3), "body": nn.Linear(3, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["words"].weight
    with pytest.warns(RuntimeWarning, match="gradients of head are left as they are"):
        found = stepped_layers(model, SGD(model.parameters()), biased=True)
    assert list(found) == ["body"]


def test_an_optimizer_of_half_a_layer_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"`optimizer` must step both .*weight and .*bias"):
        stepped_layers(model, SGD([model.weight]), biased=True)


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="`model` must have a Linear or Conv2d layer with a bias that `optimizer` st"):
        stepped_layers(nn.Linear(2, 2, bias=False), SGD(nn.Linear(2, 2).parameters()), biased=True)


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _stepped.is_distributed(torch.ones(1))
    monkeypatch.setattr(_stepped, "is_distributed", lambda _: True)
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"`model` must have whole parameters on each rank, found .*weight sharded"):
        stepped_layers(model, SGD(model.parameters()), biased=True)


def test_matrices_are_cut_by_groups() -> None:
    conv = nn.Conv2d(4, 6, 3, groups=2)
    (layer,) = stepped_layers(conv, SGD(conv.parameters()), biased=True).values()
    assert layer.features == 18
    assert layer.by_group(conv.weight).shape == (2, 3, 18)
    assert layer.by_group(conv.bias).equal(conv.bias.view(2, 3))


def test_layers_that_are_stepped_later_are_named_once_they_have_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    optimizer = SGD([*model[:2].parameters()], lr=0.1)
    newcomers = Newcomers(model, optimizer, stepped_layers(model, optimizer, biased=True), biased=True)

    def named() -> list[str]:
        model(torch.ones(1, 2)).sum().backward()
        return newcomers.with_gradient()

    assert named() == []  # the last two are of another optimizer
    model[1].requires_grad_()
    assert newcomers.with_gradient() == []
    assert named() == ["1"]
    optimizer.add_param_group({"params": [*model[2:].parameters()]})
    assert named() == ["1", "3"]
