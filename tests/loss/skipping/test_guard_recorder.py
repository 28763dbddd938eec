"""A recorder on the same optimizer, attached before or after, sees the bad gradients and a step that was skipped."""

from typing import Any

import pytest
import torch
from tests.loss.skipping.runs import fill, network
from torch.optim import LBFGS, SGD, Adam

from truestep.core import Recorder, Step
from truestep.loss import guard

WAYS: dict[str, Any] = {
    "for loop": lambda params: SGD(params, 0.1, momentum=0.9),
    "nesterov": lambda params: SGD(params, 0.1, momentum=0.9, nesterov=True, foreach=True),
    "fused": lambda params: Adam(params, 0.1, fused=True),
}


def attached(order: str, way: str) -> tuple[Any, Any, list[Step], list[bool], Recorder]:
    model = network()
    optimizer = WAYS[way](model.parameters())
    steps: list[Step] = []
    ends: list[bool] = []

    def recorder() -> Recorder:
        def on_end(_index: int, skipped: Any) -> None:
            ends.append(bool(skipped))

        return Recorder(dict(model.named_parameters()), optimizer, steps.append, on_end=on_end)

    if order == "recorder first":
        recording = recorder()
        guard(optimizer)
    else:
        guard(optimizer)
        recording = recorder()
    return model, optimizer, steps, ends, recording


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ["recorder first", "guard first"])
def test_a_skipped_step_is_recorded_as_skipped_with_the_gradients_that_it_was_skipped_for(order: str, way: str) -> None:
    model, optimizer, steps, ends, recording = attached(order, way)
    kinds = ["", "nan", "", "zero", "inf", ""]
    for seed, kind in enumerate(kinds):
        fill(model, seed, kind)
        optimizer.step()
    assert [step.skipped for step in steps] == ends == [bool(kind) for kind in kinds]
    for step, kind in zip(steps, kinds, strict=True):
        assert bool((step.took.dd > 0).all()) == (not kind)
        assert step.took.dd.isfinite().all()
        if kind == "zero":
            assert step.took.gg.tolist() == [0.0] * 4
        elif kind:
            assert step.took.gg[-1].isfinite().item() is False
            assert (step.took.gg[:-1] > 0).all()
    assert recording._gradient.keep == (way == "nesterov")  # no copy of gradients is begun because of the guard


@pytest.mark.parametrize("order", ["recorder first", "guard first"])
def test_a_first_step_that_is_skipped_is_recorded_as_skipped(order: str) -> None:
    for way in WAYS:
        model, optimizer, steps, ends, _ = attached(order, way)
        fill(model, 0, "nan")
        optimizer.step()
        assert [step.skipped for step in steps] == ends == [True]


@pytest.mark.parametrize("order", ["recorder first", "guard first"])
@pytest.mark.parametrize("kind", [SGD, LBFGS])
def test_with_a_closure_too(order: str, kind: Any) -> None:
    WAYS["closure"] = lambda params: kind(params, lr=0.1)
    model, optimizer, steps, ends, _ = attached(order, "closure")
    del WAYS["closure"]
    factors = [1.0, torch.nan, 1.0, 0.0]
    for factor in factors:
        batch = torch.randn(8, 5)

        def closure(batch: torch.Tensor = batch, factor: float = factor) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(batch) - 1).square().mean()
            (loss * factor).backward()
            return loss

        optimizer.step(closure)
    assert [step.skipped for step in steps] == ends == [False, True, False, True]
    assert steps[1].took.gg.isnan().all()
    assert (steps[2].took.gg > 0).all()
    assert steps[3].took.gg.tolist() == [0.0] * 4
