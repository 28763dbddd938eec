"""Plain SGD under a scaled loss: the rules' gradients, the schedules, the loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from truestep.lab._training import (
    Problem,
    Scale,
    batches,
    constant,
    cosine,
    cross_entropy_each,
    digits_problem,
    finite_accuracy,
    flat_gradient,
    flat_weights,
    mean_loss,
    per_sample,
    plain_mlp,
    plateau,
    raw,
    reference,
    train,
    unit,
)


def distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().sum(1)


def pairs() -> tuple[Problem, nn.Module]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(10, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    model = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return Problem(x, y, distance), model


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (raw, [0.25, 0.25, 0.25, 0.25]),
        (unit, [0.1, 0.1, 0.1, 0.1]),  # 1 / (4 mean), the mean being 2.5
        (per_sample, [1 / 4, 1 / 8, 1 / 12, 1 / 16]),
        (lambda losses: per_sample(losses, 1.0), [1 / 8, 1 / 12, 1 / 16, 1 / 20]),
        (reference(1), [0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_a_rule_weighs_the_samples_as_worked_out_by_hand(scale: Scale, expected: list[float]) -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    scale(losses).backward()
    torch.testing.assert_close(losses.grad, torch.tensor(expected, dtype=torch.float64))


def test_the_reference_is_a_running_mean_that_freezes() -> None:
    rule = reference(2)
    values = [rule(torch.tensor([loss])).item() for loss in (2.0, 4.0, 6.0, 12.0)]
    assert values == [1.0, pytest.approx(4 / 3), 2.0, 4.0]


@given(st.lists(st.sampled_from([1.0, 0.9, 0.8, 0.79999, 0.5, 2.0]), min_size=1, max_size=25))
def test_plateau_is_torchs(losses: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=2, eps=0.0)
    for loss in losses:
        scheduler.step(loss)
    assert plateau(losses, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_cosine_falls_to_exactly_zero_and_constant_does_not() -> None:
    assert [cosine([], p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]
    assert cosine([], 1 / 3) == pytest.approx(0.75)
    assert constant([9.0], 0.7) == 1.0


def test_an_epoch_has_each_sample_once() -> None:
    parts = list(batches(11, 4, torch.Generator().manual_seed(3)))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert torch.cat(parts).sort().values.tolist() == list(range(11))


def test_a_step_is_minus_lr_times_the_gradient_that_is_left_in_the_model() -> None:
    problem, model = pairs()
    before = flat_weights(model)
    (moment,) = train(model, problem, unit, lr=0.3, batch_size=10, epochs=1, generator=torch.Generator())
    torch.testing.assert_close(flat_weights(model) - before, -0.3 * flat_gradient(model))
    torch.testing.assert_close(moment.loss, problem.y.square().sum(1).mean())
    expected = -2 * problem.y.T @ problem.x / 10 / moment.loss  # of ‖xW' - y‖² at W = 0, over the loss
    torch.testing.assert_close(flat_gradient(model), expected.flatten())


def test_the_schedule_sets_every_steps_lr() -> None:
    problem, model = pairs()
    before = flat_weights(model)
    kwargs = {"schedule": cosine, "batch_size": 5, "epochs": 2, "generator": torch.Generator()}
    for i, step in enumerate(train(model, problem, raw, lr=2e-3, **kwargs)):
        assert step.lr == pytest.approx(2e-3 * cosine([], i / 4))
        assert step.epoch == i // 2
        torch.testing.assert_close(flat_weights(model) - before, -step.lr * flat_gradient(model))
        before = flat_weights(model)


def test_a_training_ends_after_the_epoch_in_which_the_loss_is_no_number() -> None:
    problem, model = pairs()
    steps = list(train(model, problem, raw, lr=1e200, batch_size=5, epochs=9, generator=torch.Generator()))
    assert len(steps) < 18
    assert not math.isfinite(steps[-1].loss)


def test_the_mean_loss_is_over_all_samples() -> None:
    problem, model = pairs()
    assert mean_loss(model, problem) == pytest.approx(problem.y.square().sum(1).mean().item())


def test_the_digits_problem_has_each_samples_cross_entropy() -> None:
    problem, data = digits_problem("cpu", torch.float64)
    output = torch.randn(len(problem.y), 10, dtype=torch.float64)
    each = cross_entropy_each(output, problem.y)
    torch.testing.assert_close(each, -output.log_softmax(1)[torch.arange(len(problem.y)), problem.y])
    assert torch.equal(problem.x, data.train_x)


def test_a_plain_mlp_is_felt_by_a_scaled_input() -> None:
    model = plain_mlp((8,), torch.Generator().manual_seed(0), "cpu", torch.float64)
    x = torch.rand(4, 64, dtype=torch.float64)
    torch.testing.assert_close(model(3 * x), 3 * model(x))  # ReLU, no bias, no normaliser


def test_a_model_with_a_weight_that_is_no_number_guesses() -> None:
    _, data = digits_problem("cpu")
    model = plain_mlp((8,), torch.Generator().manual_seed(0), "cpu")
    assert finite_accuracy(model, data) != 0.1
    nn.init.constant_(model[0].weight, torch.nan)
    assert finite_accuracy(model, data) == 0.1
