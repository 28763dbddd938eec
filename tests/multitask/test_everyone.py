"""Where the host knows that all tasks are active, fewer calls give the same weights as the masks that a GPU needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.multitask.nets import RULES
from tests.multitask.seen import seen

from truestep.multitask._rule import everyone, is_everyone
from truestep.multitask.balancing._normalize import Normalize, normalized


@pytest.mark.parametrize("normalize", ["budget", "sum", "none"])
@pytest.mark.parametrize("rule", RULES)
def test_masks_and_everyone_give_the_same_weights(rule: str, normalize: Normalize) -> None:
    masked, known = RULES[rule](), RULES[rule]()
    for other in (masked, known):
        other.start(("a", "b", "c"))
    for _ in range(4):
        losses, ratios, norms = 10 ** torch.randn(3, 3, dtype=torch.float64)
        vectors = torch.randn(3, 7, dtype=torch.float64)
        readings = seen(losses, ratios, norms, gram=vectors @ vectors.T)
        assert not is_everyone(readings.active)
        expected = normalized(masked.weigh(readings), readings, normalize)
        same = replace(readings, active=everyone(3))
        torch.testing.assert_close(normalized(known.weigh(same), same, normalize), expected, rtol=1e-14, atol=0)


def test_a_rule_that_gives_no_number_is_not_hidden_by_the_short_way() -> None:
    readings = replace(seen([1.0, 2.0], norms=[1.0, 3.0], weights=[0.5, 1.5]), active=everyone(2))
    raw = torch.tensor([1.0, torch.inf], dtype=torch.float64)
    masked = replace(readings, active=torch.ones(2, dtype=torch.bool))
    for normalize in ("budget", "sum", "none"):
        assert normalized(raw, readings, normalize).equal(normalized(raw, masked, normalize))
