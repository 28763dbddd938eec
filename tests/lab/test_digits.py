"""The lab's common ground: the split, the net, the loop."""

import torch
from torch import nn

from truestep.lab._digits import accuracy, descend, digits, hidden_weights, mlp


def small_net() -> nn.Sequential:
    return mlp((16, 8), nn.BatchNorm1d, torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_split_keeps_every_image_once() -> None:
    data = digits(dtype=torch.float64)
    both = torch.cat([data.train_x, data.test_x])
    assert both.shape == (1797, 64)
    assert both.unique(dim=0).shape == (1797, 64)  # scikit-learn's digits hold no image twice
    assert (both.min(), both.max()) == (0.0, 1.0)


def test_the_split_is_the_same_at_every_call() -> None:
    torch.testing.assert_close(digits().train_x, digits().train_x, rtol=0, atol=0)
    torch.testing.assert_close(digits().test_y, digits().test_y, rtol=0, atol=0)


def test_weights_start_with_units_of_norm_near_one() -> None:
    model = mlp((2000,), nn.BatchNorm1d, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model[0].weight.square().sum(1).mean(), torch.tensor(1.0), rtol=0.02, atol=0)


def test_hidden_weights_leave_out_the_head() -> None:
    weights = hidden_weights(small_net())
    assert [tuple(w.shape) for w in weights.values()] == [(16, 64), (8, 16)]


def test_each_step_gives_the_gram_of_weight_gradient_and_displacement_per_unit() -> None:
    model, data = small_net(), digits(dtype=torch.float64)
    before = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(1)
    (grams,) = descend(model, optimizer, data, batch_size=16, steps=1, generator=generator)
    moved = model[0].weight.detach() - before
    torch.testing.assert_close(grams["0.weight"].ww, before.square().sum(1))
    torch.testing.assert_close(grams["0.weight"].dd, moved.square().sum(1))
    torch.testing.assert_close(grams["0.weight"].gd, -grams["0.weight"].gg * 0.5)  # SGD: d = -lr g


def test_accuracy_leaves_the_model_as_it_was() -> None:
    model, data = small_net(), digits(dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = (model.eval()(data.test_x).argmax(1) == data.test_y).sum().item() / 597
    assert accuracy(model.train(), data) == expected
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
