"""The digits problems: the lab's split, models of the described shape."""

import pytest
import torch
from torch import nn

from truestep.compare.problems import digits_autoencoder, digits_cnn, digits_logistic, digits_mlp
from truestep.lab._digits import digits


def test_the_split_is_the_lab_s() -> None:
    problem, data = digits_logistic(), digits()
    images, labels = problem.held_out()
    assert torch.equal(images, data.test_x)
    assert torch.equal(labels, data.test_y)
    assert torch.equal(problem.probe()[0], data.train_x[:512])


@pytest.mark.parametrize(("make", "count"), [(digits_logistic, 650), (digits_mlp, 2410), (digits_cnn, 3842)])
def test_the_models_have_the_parameters_that_their_shapes_make(make, count: int) -> None:
    assert sum(p.numel() for p in make().build(0).parameters()) == count


def test_the_norm_of_a_convolution_before_batch_norm_does_not_matter() -> None:
    problem = digits_cnn()
    model = problem.build(0).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12  # else it matters a little
    images = problem.probe()[0].double()
    before = model(images)
    with torch.no_grad():
        model[1].weight.mul_(7.0)
        model[4].weight.mul_(0.3)
    torch.testing.assert_close(model(images), before)


def test_the_sum_over_pixels_has_64_times_the_loss_and_the_target_of_the_mean() -> None:
    mean, summed = digits_autoencoder(), digits_autoencoder(reduction="sum")
    model = mean.build(0)
    assert summed.probe_loss(model) == pytest.approx(64 * mean.probe_loss(model), rel=1e-5)
    assert summed.target == 64 * mean.target


def test_an_autoencoder_s_inputs_are_its_targets() -> None:
    images, targets = next(digits_autoencoder().batches(0))
    assert torch.equal(images, targets)


@pytest.mark.usefixtures("unchecked")
def test_another_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match='`reduction` must be "mean" or "sum"'):
        digits_autoencoder(reduction="none")
