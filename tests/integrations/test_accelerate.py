"""Accelerate divides by a constant: the short window at a dataloader's end, and helpers that are exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from tests.integrations.batches import (
    Batch,
    cross_entropy,
    equal,
    flat_gradient,
    linear,
    mean_loss,
    ragged,
    union_gradient,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from truestep.integrations.accelerate import backward, check, finish
from truestep.loss import Tally


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True, gradient_accumulation_steps=4)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(accelerator: Accelerator, batches: list[Batch], tally: Tally | None) -> list[Tensor]:
    """A loop as in Accelerate's documentation; the gradient at every step."""
    model, loader = accelerator.prepare(linear(), DataLoader(batches, batch_size=None))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.0))
    gradients: list[Tensor] = []
    for batch in loader:
        with accelerator.accumulate(model):
            losses, kept = cross_entropy(model, batch)
            if tally is None:
                accelerator.backward((losses * kept).sum() / kept.sum())
            else:
                backward(accelerator, tally, losses, mask=kept)
                window = finish(accelerator, tally, model.parameters())
                assert (window is not None) == accelerator.sync_gradients
            if accelerator.sync_gradients:
                gradients.append(flat_gradient(model))
            optimizer.step()
            optimizer.zero_grad()
    return gradients


def errors(gradients: list[Tensor], batches: list[Batch]) -> list[float]:
    expected = [union_gradient(linear(), window) for window in (batches[:4], batches[4:])]
    return [float((g - e).norm() / e.norm()) for g, e in zip(gradients, expected, strict=True)]


def test_a_dataloader_s_last_window_of_two_has_half_the_gradient(accelerator: Accelerator) -> None:
    found = errors(run(accelerator, equal(6), None), equal(6))
    assert found == pytest.approx([0.0, 0.5], abs=1e-12)


@pytest.mark.parametrize("per", ["token", "item"])
def test_a_tally_is_exact_for_ragged_and_short_windows(accelerator: Accelerator, per: Any) -> None:
    assert max(errors(run(accelerator, ragged(6), Tally(per=per)), ragged(6))) < 1e-14


def test_a_tally_s_ngd_is_unscaled_and_of_norm_1(accelerator: Accelerator) -> None:
    gradients = run(accelerator, ragged(6), Tally(per="token", scale="ngd"))
    assert [float(g.norm()) for g in gradients] == pytest.approx([1.0, 1.0])


def test_the_check_sees_the_short_window_and_that_it_is_mended(accelerator: Accelerator) -> None:
    model, tally = linear(), Tally(per="token")

    def step(model: nn.Module, batch: Batch) -> None:
        losses, kept = cross_entropy(model, batch)
        backward(accelerator, tally, losses, mask=kept)
        finish(accelerator, tally, model.parameters())

    wrong = check(accelerator, model, cross_entropy, equal(4))
    assert wrong.ratio == pytest.approx(1.0, abs=1e-12)
    assert wrong.short is not None
    assert wrong.short.ratio == pytest.approx(0.5, abs=1e-12)
    assert "short window" in wrong.cause
    assert check(accelerator, model, cross_entropy, ragged(4), step).ok


def test_the_check_takes_a_scalar_loss(accelerator: Accelerator) -> None:
    assert "short window" in check(accelerator, linear(), mean_loss, equal(4)).cause
    assert "mean of means" in check(accelerator, linear(), mean_loss, ragged(4)).cause


def test_the_check_leaves_the_accelerator_as_it_was(accelerator: Accelerator) -> None:
    accelerator.step = 3
    accelerator.sync_gradients = False
    before = [dict(vars(holder)) for holder in (accelerator, accelerator.gradient_state)]
    check(accelerator, linear(), mean_loss, equal(4))
    assert [dict(vars(holder)) for holder in (accelerator, accelerator.gradient_state)] == before
    assert (accelerator.step, accelerator.sync_gradients) == (3, False)


def test_what_scales_losses_itself_is_refused(accelerator: Accelerator) -> None:
    class DeepSpeed:
        distributed_type = "DistributedType.DEEPSPEED"

    with pytest.raises(ValueError, match="DEEPSPEED scales it itself"):
        backward(DeepSpeed(), Tally(), torch.ones(2))
    with pytest.raises(ValueError, match="DEEPSPEED scales it itself"):
        check(DeepSpeed(), linear(), mean_loss, equal(4))


def test_the_check_is_for_one_process() -> None:
    class Two:
        distributed_type, num_processes = "DistributedType.MULTI_CPU", 2

    with pytest.raises(ValueError, match="must have one process, found 2"):
        check(Two(), linear(), mean_loss, equal(4))
