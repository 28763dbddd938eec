"""What a watched run records, and how often."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.monitor.loops import Loop
from torch import nn

from truestep import watch
from truestep.core import Recorder
from truestep.invariance.symmetries import Symmetries
from truestep.monitor import Run, _watch, load_run

# --- the record


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[tuple[Loop, Run]]:
    """A loop of 12 steps and its record."""
    loop = Loop()
    labels = {"conv.weight": "unit", "fc.weight": "tensor"}
    with loop.watch(tmp_path / "run", every=4, symmetries=labels, title="first") as run:
        loop.train(run, 0, 12)
    with load_run(tmp_path / "run") as record:
        yield loop, record


def test_the_recorded_steps_are_the_recorder_s_own(tmp_path: Path) -> None:
    loop, own = Loop(), []
    recorder = Recorder(dict(loop.model.named_parameters()), loop.optimizer, own.append)
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 6)
    recorder.close()
    with load_run(tmp_path) as record:
        steps = list(record.steps)
    assert [step.index for step in steps] == list(range(6))
    for read, made in zip(steps, own, strict=True):
        assert read.names == made.names
        assert torch.equal(read.took.columns(), made.took.columns())
        torch.testing.assert_close(read.asked.lr, made.asked.lr, rtol=0, atol=0)
        torch.testing.assert_close(read.asked.eps, made.asked.eps, rtol=0, atol=0, equal_nan=True)


def test_every_step_has_its_loss_and_the_recorded_ones_carry_it(finished: tuple[Loop, Run]) -> None:
    loop, record = finished
    steps, losses = record.losses()
    assert steps.tolist() == list(range(12))
    assert losses.tolist() == loop.losses
    assert [(step.index, step.loss, step.samples) for step in record.steps] == [
        (index, loop.losses[index], 6.0) for index in (0, 4, 8)
    ]


def test_the_record_tells_all_that_a_report_asks_for(finished: tuple[Loop, Run]) -> None:
    meta = finished[1].meta
    keys = {"id", "created", "status", "ended", "truestep", "torch", "python", "command", "seed", "device"}
    keys |= {"world_size", "git", "every", "budget", "period", "cost_seconds", "wall_seconds", "title"}
    assert keys == set(meta)
    assert (meta["status"], meta["every"], meta["period"], meta["title"]) == ("finished", "4", "4", "first")
    assert (meta["device"], meta["world_size"], meta["budget"], meta["seed"]) == ("cpu", "1", "0.01", "3")
    assert float(meta["created"]) <= float(meta["ended"]) <= time.time()
    assert 0 < float(meta["cost_seconds"]) < float(meta["wall_seconds"]) < 60


def test_symmetries_that_were_found_are_taken_as_their_labels(tmp_path: Path) -> None:
    loop = Loop()
    found = Symmetries({"conv.weight": "unit"}, [{"norm.weight": 1, "norm.bias": 1}], (), {}, ("fc.bias",))
    with loop.watch(tmp_path / "run", symmetries=found) as run:
        loop.train(run, 0, 1)
    with load_run(tmp_path / "run") as record:
        assert {block.name: block.symmetry for block in record.blocks if block.symmetry} == found.labels()


def test_blocks_have_shape_kind_symmetry_and_optimizer(finished: tuple[Loop, Run]) -> None:
    blocks = finished[1].blocks
    assert [(b.name, b.shape, b.numel, b.kind, b.symmetry, b.optimizer) for b in blocks] == [
        ("conv.weight", (4, 1, 3, 3), 36, "Conv2d.weight", "unit", 1),
        ("norm.weight", (4,), 4, "BatchNorm2d.weight", None, 1),
        ("norm.bias", (4,), 4, "BatchNorm2d.bias", None, 1),
        ("fc.weight", (3, 4), 12, "Linear.weight", "tensor", 1),
        ("fc.bias", (3,), 3, "Linear.bias", None, 1),
    ]


def test_two_optimizers_each_record_their_own_blocks_and_what_none_holds_is_told(tmp_path: Path) -> None:
    loop = Loop()
    model = loop.model
    muon = torch.optim.Muon([model.fc.weight], lr=0.02)
    adamw = torch.optim.AdamW([model.conv.weight, model.fc.bias], lr=1e-3)
    with watch(model, [muon, adamw], tmp_path, every=1, console=None) as run:
        for step in range(3):
            loss = loop.backward(step)
            muon.step()
            adamw.step()
            run.log(loss=loss)
    with load_run(tmp_path) as record:
        steps = [(step.index, step.optimizer, step.names, step.loss) for step in record.steps]
        owners = {block.name: block.optimizer for block in record.blocks}
        infos = [(info.id, info.name, info.rule, json.loads(str(info.settings))[0]["lr"]) for info in record.optimizers]
        assert record.losses("AdamW")[1].tolist() == record.losses("Muon")[1].tolist() == loop.losses
    assert infos == [(1, "Muon", "Muon", 0.02), (2, "AdamW", "AdamW", 1e-3)]
    assert owners == {"fc.weight": 1, "conv.weight": 2, "fc.bias": 2, "norm.weight": None, "norm.bias": None}
    both = [("Muon", ("fc.weight",)), ("AdamW", ("conv.weight", "fc.bias"))]
    assert steps == [(i, name, names, loop.losses[i]) for i in range(3) for name, names in both]


def test_optimizers_of_one_class_or_with_names_of_their_own_stay_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    players = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    for given, names in ((players, ["SGD", "SGD[1]"]), ({"one": players[0], "two": players[1]}, ["one", "two"])):
        with watch(model, given, every=1, console=None) as run:
            model(torch.ones(1, 2)).sum().backward()
            for player in players:
                player.step()
            assert [step.optimizer for step in run.steps] == names


def test_units_are_blocks_of_their_own_that_sum_up_to_the_whole(tmp_path: Path) -> None:
    whole, cut = Loop(), Loop()
    with whole.watch(tmp_path / "whole") as run:
        whole.train(run, 0, 3)
    with cut.watch(tmp_path / "cut", units=("fc.weight",), symmetries={"fc.weight": "unit"}) as run:
        cut.train(run, 0, 3)
    names = tuple(f"fc.weight[{unit}]" for unit in range(3))
    with load_run(tmp_path / "whole") as one, load_run(tmp_path / "cut") as other:
        for step, units in zip(one.steps, other.steps, strict=True):
            assert units.names == (*step.names[:3], *names, "fc.bias")
            torch.testing.assert_close(units.took.columns()[3:6].sum(0), step.took.columns()[3])
        told = {block.name: (block.shape, block.numel, block.kind, block.symmetry) for block in other.blocks}
    assert {told[name] for name in names} == {((4,), 4, "Linear.weight", "unit")}


@pytest.mark.parametrize(
    ("label", "of_unit"),
    [("unit", "unit"), ("sensitive", "sensitive"), ("tensor", "part of a tensor"), ("group", "part of a group")],
)
def test_a_row_of_what_is_invariant_as_a_whole_is_not_said_to_be_so(label: str, of_unit: str, tmp_path: Path) -> None:
    with Loop().watch(tmp_path, units=("fc.weight",), symmetries={"fc.weight": label}):
        pass
    with load_run(tmp_path) as record:
        told = {block.name: block.symmetry for block in record.blocks}
    assert (told["fc.weight"], told["fc.weight[0]"]) == (label, of_unit)


def test_a_parameter_added_in_mid_run_is_noted_and_recorded_from_there_on(tmp_path: Path) -> None:
    loop = Loop()
    loop.model.fc.requires_grad_(False)
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
        loop.model.fc.requires_grad_(True)
        loop.model.gain = nn.Parameter(torch.ones(2))
        loop.optimizer.add_param_group({"params": [loop.model.gain], "lr": 0.5})
        loop.train(run, 2, 4)
    with load_run(tmp_path) as record:
        sizes = [len(step.names) for step in record.steps]
        (event,) = record.events
        kinds = {block.name: block.kind for block in record.blocks}
    assert sizes == [3, 3, 6, 6]
    assert (event.kind, event.step, event.text) == ("added", 2, "fc.bias, fc.weight, gain")
    assert kinds["gain"] == "Net.gain"


def test_tags_are_noted_when_they_change_and_are_no_loss(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        for epoch in range(2):
            run.log(epoch=epoch, phase="train")  # before the first step, and yet the losses come after theirs
            for step in range(3 * epoch, 3 * epoch + 3):
                loop.train(run, step, step + 1)
                run.log(epoch=epoch)
    with load_run(tmp_path) as record:
        assert record.losses()[1].tolist() == loop.losses
        events = [(event.kind, event.step, json.loads(event.text)) for event in record.events]
    assert events == [("tag", 0, {"epoch": "0", "phase": "train"}), ("tag", 3, {"epoch": "1"})]


def test_a_run_can_be_looked_at_while_it_goes_on(tmp_path: Path) -> None:
    for where in (None, tmp_path):
        loop = Loop()
        with loop.watch(where) as run:
            loop.train(run, 0, 4)
            assert [step.index for step in run.steps] == [0, 1, 2, 3]
            loop.train(run, 4, 6)
            assert len(run.steps) == 6
            assert 0 < run.cost < 1
        assert [step.loss for step in run.steps] == loop.losses


def test_the_report_is_written_beside_the_record_or_where_it_is_asked_for(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path / "run", units=("fc.weight",)) as run:
        loop.train(run, 0, 4)
        assert run.report() == tmp_path / "run" / "report.html"
    with Loop().watch() as memory:
        with pytest.raises(ValueError, match=r"`path` is needed where the run has no directory"):
            memory.report()
        assert "conv.weight" in memory.report(tmp_path / "page.html").read_text()


def test_what_watching_cost_is_noted_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the record of a killed run tells it."""
    monkeypatch.setattr(_watch, "BETWEEN_COSTS", 0.0)
    loop = Loop()
    run = loop.watch(tmp_path)
    loop.train(run, 0, 3)
    assert run._store is not None
    run._store.flush()
    with load_run(tmp_path) as record:
        assert {"cost_seconds", "wall_seconds", "period"} <= set(record.meta)
    run.close()


# --- the period


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock in seconds that stands still unless the test turns it."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_auto_begins_with_the_powers_of_two_and_ends_at_what_is_affordable(clock: list[float], tmp_path: Path) -> None:
    """A step takes 1 s and recording 0.07 s more: one in 7 would cost 1 %, so that it is one in 8."""
    loop = Loop()
    run = loop.watch(tmp_path, every="auto")
    keep = run._keep

    def slowly(step: Any) -> None:
        clock[0] += 0.07
        keep(step)

    run._keep = slowly  # type: ignore[method-assign]
    for step in range(40):
        clock[0] += 1.0
        loop.train(run, step, step + 1)
    assert [step.index for step in run.steps] == [0, 1, 2, 4, 8, 16, 24, 32]
    run.close()
    with load_run(tmp_path) as record:
        assert record.meta["period"] == "8"
        assert record.losses()[0].tolist() == list(range(40))


@pytest.mark.parametrize("every", [1, 5])
def test_a_fixed_period_is_kept(every: int) -> None:
    loop = Loop()
    with loop.watch(every=every) as run:
        loop.train(run, 0, 12)
        assert [step.index for step in run.steps] == list(range(0, 12, every))


def test_a_full_record_is_thinned_and_recorded_more_seldom_from_there_on(tmp_path: Path) -> None:
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.ones(1)) for i in range(200)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path, every=1, console=None, max_bytes=2.0**18) as run:
        for _ in range(60):
            optimizer.step()
            run.flush()
        indices = [step.index for step in run.steps]
    with load_run(tmp_path) as record:
        period = int(record.meta["period"])
        assert {event.kind for event in record.events} == {"thinned"}
    assert period >= 2
    assert indices == list(range(0, 60, period))


def test_without_a_log_call_recorded_steps_and_the_last_one_have_a_row(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path, every=4):
        for step in range(11):
            loop.backward(step)
            loop.optimizer.step()
    with load_run(tmp_path) as run:
        assert run.query("SELECT step FROM step ORDER BY step") == [(0,), (4,), (8,), (10,)]


def test_a_first_log_call_after_steps_that_were_not_recorded_belongs_to_the_last_of_them(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path, every=4) as run:
        for step in range(3):
            loop.backward(step)
            loop.optimizer.step()
        run.log(loss=0.5)
        loop.backward(3)
        loop.optimizer.step()
        run.log(loss=0.25)
    with load_run(tmp_path) as record:
        assert record.query("SELECT step, loss FROM step ORDER BY step") == [(0, None), (2, 0.5), (3, 0.25)]
