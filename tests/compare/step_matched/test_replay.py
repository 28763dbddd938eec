"""A record's lengths, whatever norm and scope they are read in, are those that the steps had."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.compare.step_matched.nets import Net, backward, blocks, built, length_of, train
from torch import nn
from torch.optim import SGD, Adam, Optimizer

import truestep
from truestep.compare.step_matched._blocks import SCOPES
from truestep.compare.step_matched._replay import Replay, replay
from truestep.compare.step_matched._step_matched import StepMatched
from truestep.core import Recorder, Step

UNITS = ("words.weight", "hidden.weight", "out.weight")


def recorded(steps: int = 3, *, units: tuple[str, ...] = UNITS) -> tuple[list[Step], list[tuple[Any, Any]]]:
    """A run's record, and its weights before and behind each step, as `blocks` of an optimizer to come."""
    model, optimizer = built(Adam)
    record: list[Step] = []
    recorder = Recorder(dict(model.named_parameters()), optimizer, record.append, units=units)
    seen = []
    for seed in range(steps):
        before = {scope: blocks(optimizer, scope) for scope in SCOPES}
        train(model, optimizer, range(seed, seed + 1))
        seen.append((before, {scope: blocks(optimizer, scope) for scope in SCOPES}))
    recorder.close()
    return record, seen


def follower() -> tuple[Net, Optimizer]:
    return built(SGD)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("norm", ["l2", "rms", "relative", "angular"])
def test_each_step_is_as_long_as_the_recorded_one_was(norm: Any, scope: Any) -> None:
    record, seen = recorded()
    model, optimizer = follower()
    matched = StepMatched(optimizer, replay(record, params=dict(model.named_parameters())), norm=norm, scope=scope)
    floor = matched.state_dict()["floor"]
    for seed, (before, after) in enumerate(seen):
        train(model, optimizer, range(seed, seed + 1))
        report = matched.report
        for w, now, took, own in zip(before[scope], after[scope], report.took, report.kept, strict=True):
            if not own:
                assert took.item() == pytest.approx(length_of(w, now, norm, floor), rel=1e-6)
        assert report.kept.sum() <= 1
    with pytest.raises(ValueError, match="found 3 and a step more"):
        train(model, optimizer, range(1))


def test_a_watched_run_is_followed_by_the_names_of_the_optimizer(tmp_path: Path) -> None:
    model, optimizer = built(Adam)
    with truestep.watch(model, optimizer, tmp_path / "run", every=1, console=None) as run:
        train(model, optimizer, range(3))
        lengths = replay(run.steps)
    model, _ = follower()
    named = SGD(model.named_parameters(), lr=1.0)
    matched = StepMatched(named, lengths, scope="tensor")
    assert matched.report.names == lengths.names
    train(model, named, range(3))
    torch.testing.assert_close(matched.report.took, lengths.sums[2, :, 2].sqrt(), rtol=1e-12, atol=0)


def test_a_skipped_step_has_no_length() -> None:
    model, optimizer = built(Adam, "fused")
    record: list[Step] = []
    Recorder(dict(model.named_parameters()), optimizer, record.append)
    for seed, flag in enumerate((0.0, 1.0, 0.0)):
        backward(model, seed)
        optimizer.found_inf = torch.tensor(flag)  # type: ignore[attr-defined]
        optimizer.step()
    lengths = replay(record)
    assert [step.skipped for step in record] == [False, True, False]
    assert lengths.sums.shape[0] == 2
    assert (lengths.sums[..., 2].sum(1) > 0).all()


def test_weights_that_are_frozen_and_let_go_again_keep_their_own_lengths() -> None:
    record, _ = recorded()
    model, _ = follower()
    optimizer = SGD(model.named_parameters(), lr=1.0)
    lengths = replay(record)
    matched = StepMatched(optimizer, lengths, scope="tensor")
    for seed, frozen in enumerate((False, True, False)):
        model.hidden.weight.requires_grad_(not frozen)
        optimizer.zero_grad()
        train(model, optimizer, range(seed, seed + 1))
        expected = dict(zip(lengths.names, lengths.sums[seed, :, 2].tolist(), strict=True))
        took = dict(zip(matched.report.names, matched.report.took.square().tolist(), strict=True))
        assert ("hidden.weight" in took) is not frozen
        for name, length in took.items():
            units = [x for unit, x in expected.items() if unit.split("[")[0] == name]
            assert length == pytest.approx(sum(units), rel=1e-9)


def test_a_resumed_run_reads_the_record_with_the_floor_that_it_was_saved_with() -> None:
    sums = torch.tensor([[[0.0, 0.0, 4.0], [1.0, 0.0, 4.0]]], dtype=torch.float64)
    ends = []
    for scale, state in ((1.0, None), (5.0, "saved")):
        zero, weight = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.full((3,), scale))
        optimizer = SGD([("zero", zero), ("weight", weight)], lr=1.0)
        record = Replay(("zero", "weight"), sums)
        matched = StepMatched(optimizer, record, norm="relative", scope="tensor")
        if state is None:
            saved = matched.state_dict()
        else:
            matched.load_state_dict(saved)
        zero.grad, weight.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
        ends.append(matched.report.wanted)
    assert torch.equal(*ends)


def test_a_record_with_gaps_of_several_optimizers_or_of_changing_blocks_is_refused() -> None:
    record, _ = recorded()
    with pytest.raises(ValueError, match=r"must hold every step, found 2 behind 0; record the run with `watch"):
        replay(record[::2])
    with pytest.raises(ValueError, match="must hold steps that were taken, found none"):
        replay([])
    others, _ = recorded(1, units=())
    with pytest.raises(ValueError, match="must hold steps of the optimizer 'SGD'"):
        replay(others, optimizer="SGD")
    with pytest.raises(ValueError, match="found 0 behind 0"):
        replay([record[0], others[0]])
    object.__setattr__(others[0], "index", 1)
    with pytest.raises(ValueError, match="found others at step 1"):
        replay([record[0], others[0]])
    object.__setattr__(others[0], "optimizer", "SGD")
    with pytest.raises(ValueError, match=r"must be of one optimizer, found 'Adam' and 'SGD'; name the one"):
        replay([record[0], others[0]])
    assert torch.equal(replay([*record, others[0]], optimizer="Adam").sums, replay(record).sums)


@pytest.mark.parametrize("norm", ["linf", "function"])
def test_what_a_record_does_not_hold_is_refused(norm: Any) -> None:
    model, optimizer = follower()
    probe = None if norm == "linf" else model.parameters
    with pytest.raises(ValueError, match="`norm` must be 'l2', 'rms', 'relative' or 'angular' for a `replay`"):
        StepMatched(optimizer, replay(recorded(1)[0]), norm=norm, probe=probe)


def test_weights_that_the_record_does_not_know_are_refused() -> None:
    model, optimizer = follower()
    lengths = replay(recorded(1, units=())[0])
    with pytest.raises(ValueError, match="must find each weight in the record by its name, found one without"):
        StepMatched(optimizer, lengths)
    named = SGD(model.named_parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"found no 4 units of 'words\.weight' in the record; watch that run with"):
        StepMatched(named, lengths, scope="unit")
    with pytest.raises(ValueError, match="found no 'w' in the record; pass the `params` by the names of that run"):
        StepMatched(SGD([("w", nn.Parameter(torch.ones(2)))]), lengths)


def test_units_of_a_vector_are_one_block() -> None:
    sums = torch.tensor([[[1.0, 0.0, 9.0], [1.0, 0.0, 16.0]]], dtype=torch.float64)
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([("b", weight)], lr=1.0)
    StepMatched(optimizer, Replay(("b[0]", "b[1]"), sums), scope="unit")
    weight.grad = torch.tensor([0.0, -1.0])
    optimizer.step()
    assert weight.tolist() == [1.0, 6.0]
