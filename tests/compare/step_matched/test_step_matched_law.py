"""The length of each step of every optimizer of torch, in each norm and scope."""

from itertools import product
from typing import Any

import pytest
import torch
from tests.compare.step_matched.nets import (
    LENGTHS,
    WAYS,
    Net,
    blocks,
    built,
    length_of,
    output_length,
    outputs,
    probe,
    train,
)
from torch.optim import Optimizer, SparseAdam

from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._factor import NORMS
from truestep.compare.step_matched._step_matched import StepMatched

TURNS = (*product(NORMS, SCOPES), ("function", "global"))


@pytest.mark.usefixtures("unchecked")  # 600 controls: each would have its hooks' types checked anew
@pytest.mark.parametrize(("kind", "way"), WAYS, ids=lambda x: getattr(x, "__name__", x))
def test_each_step_of_each_rule_has_the_wanted_length_in_each_norm_and_scope(kind: Any, way: str) -> None:
    model, optimizer = built(kind, way)
    unturned = 0
    for turn, (norm, scope) in enumerate(TURNS):  # 50 steps of one run
        asked = {"norm": norm, "scope": scope, "probe": probe(model) if norm == "function" else None}
        matched = StepMatched(optimizer, LENGTHS[norm], **asked)
        for seed in range(turn * 50 // len(TURNS), (turn + 1) * 50 // len(TURNS)):
            unturned += missed_by_a_step(model, optimizer, matched, seed, norm, scope)
        matched.close()
    assert unturned <= 5


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "way"), WAYS, ids=lambda x: getattr(x, "__name__", x))
def test_fifty_steps_of_each_rule_have_the_wanted_length_in_each_norm_and_scope(kind: Any, way: str) -> None:
    for norm, scope in TURNS:
        model, optimizer = built(kind, way)
        matched = StepMatched(
            optimizer, LENGTHS[norm], norm=norm, scope=scope, probe=probe(model) if norm == "function" else None
        )
        unturned = sum(missed_by_a_step(model, optimizer, matched, seed, norm, scope) for seed in range(50))
        saturated = kind is SparseAdam and norm == "function"  # it has the embedding alone, and drives tanh to its ends
        assert unturned <= (20 if saturated else 0 if norm == "function" else 5)


def missed_by_a_step(model: Net, optimizer: Optimizer, matched: StepMatched, seed: int, norm: str, scope: str) -> int:
    """Take a step; how many blocks moved but were left unmatched, and reported. The others have the length."""
    floor, before = matched.state_dict()["floor"], blocks(optimizer, scope)
    with torch.no_grad():
        start = outputs(model)
    train(model, optimizer, range(seed, seed + 1))
    unturned = 0
    for w, now, own in zip(before, blocks(optimizer, scope), matched.report.kept.tolist(), strict=True):
        if not own:
            took = output_length(start, model) if norm == "function" else length_of(w, now, norm, floor)
            assert abs(took / LENGTHS[norm] - 1) < 1e-5
        elif not torch.equal(w, now):
            assert norm in ("angular", "function")  # no scale turns it so far, or changes the outputs so much
            unturned += 1
    return unturned
