"""The effective lr is the one that is chosen, at each step."""

from typing import Any

import pytest
import torch
from tests.invariance.controls.runs import apart, backward, batches, invariant, net, train
from torch.optim import SGD, Adam, AdamW, RMSprop

from truestep.core import Recorder, Step
from truestep.invariance import effective_lr
from truestep.invariance.controls._hold_effective_lr import HoldEffectiveLR
from truestep.invariance.controls._unit_sphere import UnitSphere


def one_group_each(model: torch.nn.Module) -> list[dict[str, Any]]:
    return [{"params": [p]} for p in invariant(model).values()]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_s_effective_lr_is_held_for_each_group(momentum: float) -> None:
    model = net()
    optimizer = SGD(one_group_each(model), lr=0.1, momentum=momentum, weight_decay=0.01)
    HoldEffectiveLR(optimizer, invariant(model), 0.02)
    steps: list[Step] = []
    recorder = Recorder(invariant(model), optimizer, steps.append)
    train(model, optimizer, 30)
    recorder.close()
    found = torch.stack([effective_lr(step.took, step.asked.lr) for step in steps])
    torch.testing.assert_close(found, torch.full_like(found, 0.02), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", [Adam, AdamW])
def test_adam_s_is_lr_over_the_norm(rule: Any) -> None:
    model = net()
    optimizer = rule([*invariant(model).values()], lr=0.1)
    HoldEffectiveLR(optimizer, invariant(model), 0.02)
    steps: list[Step] = []
    recorder = Recorder(invariant(model), optimizer, steps.append)
    train(model, optimizer, 10)
    recorder.close()
    found = torch.stack([step.asked.lr[0] / step.took.sum().weight_norm for step in steps])
    torch.testing.assert_close(found, torch.full_like(found, 0.02), rtol=1e-12, atol=0)


def test_it_walks_as_a_projection_per_tensor_does() -> None:
    held, projected = net(), net()
    slow, still = (SGD(one_group_each(model), lr=1.0) for model in (held, projected))
    HoldEffectiveLR(slow, invariant(held), 1.0)
    UnitSphere(still, invariant(projected), per="tensor", radius=1.0)
    for model, optimizer in ((held, slow), (projected, still)):
        for batch in batches(40):
            backward(model, batch)
            optimizer.step()
    assert apart(held, projected) < 1e-11


def test_other_rules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`optimizer` must be SGD, Adam or AdamW of torch\.optim, found RMSprop"):
        HoldEffectiveLR(RMSprop([w := torch.ones(2, 2)]), {"w": w}, 0.1)


@pytest.mark.filterwarnings("ignore:HoldEffectiveLR")
def test_a_weight_of_norm_zero_has_no_lr_and_is_counted() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = SGD([weight], lr=0.1)
    held = HoldEffectiveLR(optimizer, {"w": weight}, 0.1)
    optimizer.step()
    assert (held.missed, optimizer.param_groups[0]["lr"]) == (1, 0.1)
