"""Training at any batch size: the same images in the same order, and the numbers that are read from it."""

from collections.abc import Iterator
from functools import partial
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy

from truestep.lab._batch_size import (
    IMAGES,
    WORST,
    batches,
    loss_after,
    network,
    sharpness,
    slope,
    steps,
    training_loss,
)
from truestep.lab._digits import digits

DATA = digits()


def first_epochs(stream: Iterator[Tensor], batch_size: int, epochs: int) -> Tensor:
    return torch.cat(list(islice(stream, epochs * IMAGES // batch_size))).view(epochs, IMAGES)


@pytest.mark.parametrize("batch_size", [8, 512])
def test_an_epoch_holds_every_image_once_and_no_two_are_in_one_order(batch_size: int) -> None:
    one, two = first_epochs(batches(3, batch_size), batch_size, 2)
    assert torch.equal(one.sort().values, torch.arange(IMAGES))
    assert torch.equal(two.sort().values, torch.arange(IMAGES))
    assert not torch.equal(one, two)


def test_the_order_is_the_seed_s_and_not_the_batch_size_s() -> None:
    assert torch.equal(first_epochs(batches(3, 8), 8, 2), first_epochs(batches(3, 128), 128, 2))
    assert not torch.equal(first_epochs(batches(3, 8), 8, 1), first_epochs(batches(4, 8), 8, 1))


def test_each_step_is_the_lr_times_its_own_batch_s_mean_gradient() -> None:
    by_hand, model = network(0), network(0)
    for index in islice(batches(0, 16), 2):
        loss = cross_entropy(by_hand(DATA.train_x[index]), DATA.train_y[index])
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for w, g in zip(by_hand.parameters(), gradients, strict=True):
                w.sub_(0.5 * g)
    assert list(islice(steps(partial(torch.optim.SGD, lr=0.5), model, DATA, 0, batch_size=16), 2)) == [1, 2]
    for w, moved in zip(by_hand.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(moved, w)


def test_the_sum_at_an_lr_is_the_mean_at_the_lr_times_the_batch_to_the_last_bit() -> None:
    train = partial(loss_after, data=DATA, seed=1, batch_size=64, epochs=(1, 2))
    summed = train(partial(torch.optim.SGD, lr=2.0**-9), reduction="sum")
    assert summed == train(partial(torch.optim.SGD, lr=2.0**-3), reduction="mean")
    assert summed != train(partial(torch.optim.SGD, lr=2.0**-4), reduction="mean")


def test_losses_are_read_at_the_end_of_the_epochs_asked_for() -> None:
    build = partial(torch.optim.SGD, lr=0.1)
    model = network(0)
    found = [training_loss(model, DATA) for _ in islice(steps(build, model, DATA, 0, batch_size=256), 12)]
    assert loss_after(build, DATA, 0, batch_size=256, epochs=(1, 3)) == [found[3], found[11]]


def test_a_diverged_training_counts_as_the_worst_loss() -> None:
    model = network(0)
    assert training_loss(model, DATA) < 3
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    assert training_loss(model, DATA) == WORST
    assert loss_after(partial(torch.optim.SGD, lr=1e6), DATA, 0, batch_size=512, epochs=(1,))[0] == WORST


def test_the_slope_is_that_of_a_power_law_whatever_its_factor() -> None:
    assert slope({8: 3 * 8**-0.7, 16: 3 * 16**-0.7, 512: 3 * 512**-0.7}) == pytest.approx(-0.7)


def test_the_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian() -> None:
    data = digits(dtype=torch.float64)
    model = nn.Linear(64, 10, bias=False, dtype=torch.float64)
    weight = 0.1 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)

    def loss(w: Tensor) -> Tensor:
        return cross_entropy(data.train_x[:IMAGES] @ w.T, data.train_y[:IMAGES])

    dense = hessian(loss, weight).reshape(640, 640)
    largest = torch.linalg.eigvalsh(dense).max().item()
    assert sharpness(model, data, iterations=300) == pytest.approx(largest, rel=1e-4)
