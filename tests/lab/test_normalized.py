"""Nets without a scale: the watched loop, the copies side by side, and the small formulas."""

import torch
from torch import nn
from torch.nn.functional import batch_norm, cross_entropy
from torch.optim import SGD

from truestep.lab._digits import digits
from truestep.lab._normalized import (
    BATCH,
    WIDTHS,
    all_weights,
    batch_norm_net,
    joined,
    log_spaced,
    mean_losses,
    normalized_relu,
    outputs,
    random_copies,
    rms_angle,
    standardized,
    watched,
)


def short_run(steps: int = 4) -> tuple[nn.Sequential, dict]:
    generator = torch.Generator().manual_seed(0)
    data = digits(dtype=torch.float64)
    model = batch_norm_net(generator, "cpu")
    optimizer = SGD(model.parameters(), lr=0.3)
    return model, watched(model, optimizer, data, generator, steps)


def test_a_watched_run_gives_every_unit_of_every_layer_at_every_step() -> None:
    model, grams = short_run()
    assert list(grams) == list(all_weights(model))
    assert [gram.ww.shape for gram in grams.values()] == [(4, 32), (4, 32), (4, 10)]


def test_the_watched_displacement_is_sgd_s_and_hidden_gradients_are_orthogonal() -> None:
    _, grams = short_run()
    for gram in grams.values():
        torch.testing.assert_close(gram.dd, 0.09 * gram.gg)
    hidden = joined(list(grams.values())[:-1])
    assert hidden.ww.shape == (4, sum(WIDTHS))
    torch.testing.assert_close(hidden.ww[1:], (hidden.ww + hidden.dd)[:-1], rtol=1e-13, atol=0)  # Pythagoras
    assert (hidden.wg.abs() / (hidden.weight_norm * hidden.gradient_norm)).max() < 1e-13


def test_what_comes_after_a_step_is_called_after_each() -> None:
    generator, data = torch.Generator().manual_seed(0), digits(dtype=torch.float64)
    model, calls = batch_norm_net(generator, "cpu"), []
    watched(model, SGD(model.parameters(), lr=0.1), data, generator, 3, lambda: calls.append(1))
    assert len(calls) == 3


def test_the_rms_angle_is_that_of_the_window() -> None:
    _, grams = short_run()
    gram = grams["0.weight"]
    expected = (0.3 * gram.gradient_norm / gram.weight_norm).atan()[1:3].square().mean().sqrt()
    assert abs(rms_angle(gram, slice(1, 3)) / expected - 1) < 1e-12


def test_a_log_axis_has_its_first_and_last_step_once() -> None:
    steps = log_spaced(3000)
    assert (steps[0], steps[-1]) == (0, 2999)
    assert (steps.diff() > 0).all()
    assert log_spaced(1).tolist() == [0]


def test_copies_start_alike_and_answer_as_the_model_they_stand_for() -> None:
    weights = random_copies(3, torch.Generator().manual_seed(1), "cpu", dtype=torch.float64)
    data = digits(dtype=torch.float64)
    x, y = data.train_x[:BATCH], data.train_y[:BATCH]
    answers = outputs(weights, x, normalized_relu)
    a = x
    for w in weights[:-1]:
        a = batch_norm(a @ w[0].T, None, None, training=True).relu()
    expected = a @ weights[-1][0].T
    torch.testing.assert_close(answers, expected.expand(3, -1, -1))
    torch.testing.assert_close(mean_losses(answers, y), cross_entropy(expected, y).expand(3))


def test_the_gradient_of_the_sum_is_each_copy_s_own() -> None:
    weights = random_copies(2, torch.Generator().manual_seed(1), "cpu", dtype=torch.float64)
    with torch.no_grad():
        weights[0][1] *= 2.0  # the same net, on a larger sphere
    data = digits(dtype=torch.float64)
    loss = mean_losses(outputs(weights, data.train_x[:64], lambda s: standardized(s, 1e-30).relu()), data.train_y[:64])
    first, *others = torch.autograd.grad(loss.sum(), weights)
    torch.testing.assert_close(first[1], first[0] / 2, rtol=1e-10, atol=1e-15)
    for g in others:
        torch.testing.assert_close(g[1], g[0], rtol=1e-10, atol=1e-15)
