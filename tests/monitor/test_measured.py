"""A watched run measures its covariate shift on demand: what was found is recorded, and nothing is disturbed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.monitor.balancing import plain
from tests.monitor.loops import Loop, assert_bit_equal, hooks, unwatched
from tests.monitor.test_watch_failures import one_warning
from torch import Tensor, nn

from truestep import Watch, watch
from truestep.conditioning.shift import CovariateShift, covariate_shift
from truestep.monitor import load_run
from truestep.monitor._measured import OnAnotherRankError, Passes

BATCHES = [torch.randn(5, 1, 5, 5, generator=torch.Generator().manual_seed(50 + i)) + i for i in range(2)]


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(batch), torch.arange(len(batch)) % 3)


def plain_rows(found: CovariateShift) -> list[Any]:
    return [plain(row) for row in found.rows()]


def recorded(record: Any) -> list[tuple[int, Any]]:
    """Steps and rows without their heads."""
    heads = ("optimizer", "step", "train_mode", "batches")
    rows = record.covariate_shift()
    return [(row["step"], plain({key: row[key] for key in row if key not in heads})) for row in rows]


# --- what is recorded


def test_what_is_found_is_that_of_covariate_shift_and_stands_in_the_record_at_the_steps_taken(tmp_path: Path) -> None:
    loop = Loop()
    found: dict[int, CovariateShift] = {}
    with loop.watch(tmp_path, every=3) as run:
        for step in (0, 1, 4, 5):
            loop.train(run, max(found, default=0), step)
            measured = run.covariate_shift(BATCHES, loss_fn)
            assert measured is not None
            found[step] = measured
            assert plain_rows(measured) == plain_rows(covariate_shift(loop.model, BATCHES, loss_fn=loss_fn))
    with load_run(tmp_path) as record:
        assert recorded(record) == [(step, row) for step, one in found.items() for row in plain_rows(one)]
        heads = {(row["optimizer"], row["train_mode"], row["batches"]) for row in record.covariate_shift()}
        assert heads == {("SGD", True, 2)}
        layers = [row["layer"] for row in record.covariate_shift() if row["step"] == 0]
    assert layers == ["conv", "fc", "norm"]
    assert 0 < found[5].layers["fc"].ics_share < 1
    assert found[5].layers["fc"].nu != found[0].layers["fc"].nu  # there was something to record


def test_without_a_loss_the_model_is_only_run_and_its_mode_is_recorded(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.model.eval()
        found = run.covariate_shift(BATCHES[:1])
        assert not loop.model.training
    assert found is not None
    with load_run(tmp_path) as record:
        assert recorded(record) == [(0, row) for row in plain_rows(found)]
        assert {(row["train_mode"], row["batches"]) for row in record.covariate_shift()} == {(False, 1)}
        assert {plain(row["ics_share"]) for row in record.covariate_shift()} == {None}


def test_the_first_optimizer_counts_the_steps() -> None:
    loop = Loop()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (loop.model.conv, loop.model.fc))
    with watch(loop.model, {"a": first, "b": second}, every=1, console=None) as run:
        for step in range(3):
            loop.backward(step)
            second.step()
            if step:
                first.step()
        run.covariate_shift(BATCHES)
        assert {(row["optimizer"], row["step"]) for row in run._reader().covariate_shift()} == {("a", 2)}


@pytest.mark.usefixtures("unchecked")  # beartype draws random numbers
def test_the_run_is_bit_equal_to_one_that_nobody_measured(tmp_path: Path) -> None:
    loop, loader = Loop(), torch.utils.data.DataLoader(torch.cat(BATCHES), 4, shuffle=True)
    with loop.watch(tmp_path, every=2) as run:

        def measure(step: int) -> None:
            """Between backward and step, where gradients stand; a loader that shuffles draws random numbers."""
            if step in (2, 5):
                assert run.covariate_shift(loader, loss_fn) is not None

        loop.train(run, 0, 6, measure)
    assert_bit_equal(loop.state(), unwatched(6))
    with load_run(tmp_path) as record:
        assert {row["step"] for row in record.covariate_shift()} == {2, 5}
        assert record.losses()[1].tolist() == loop.losses
        assert [step.index for step in record.steps] == [0, 2, 4]


def test_a_closed_watch_still_measures_and_records_nothing(tmp_path: Path) -> None:
    loop = Loop()
    run = loop.watch(tmp_path)
    loop.train(run, 0, 2)
    run.close()
    assert run.covariate_shift(BATCHES, loss_fn) is not None
    assert not run._store._batch
    with load_run(tmp_path) as record:
        assert record.covariate_shift() == []


# --- what fails


class Breaks:
    """Fails at the `at`-th call of the loss: from the fifth on, in the second pass."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, model: nn.Module, batch: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise ArithmeticError("boom\nand more")
        return loss_fn(model, batch)


def ending(run: Watch) -> CovariateShift | None:
    def batches() -> Iterator[Tensor]:
        yield BATCHES[0]
        raise ArithmeticError("boom\nand more")

    return run.covariate_shift(batches(), loss_fn)


FAILING = {
    "the loss, first pass": lambda run: run.covariate_shift(BATCHES, Breaks(2)),
    "the loss, second pass": lambda run: run.covariate_shift(BATCHES, Breaks(3)),
    "the batches": ending,
    "no batch": lambda run: run.covariate_shift([], loss_fn),
}


@pytest.mark.parametrize("errors", [False, True], ids=["warned", "warnings are errors"])
@pytest.mark.parametrize("place", FAILING)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_measured_is_told_of_and_the_run_goes_on(
    place: str, errors: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop()
    with one_warning(capsys, errors=errors) as said, loop.watch(tmp_path) as run:
        loop.train(run, 0, 2)
        assert FAILING[place](run) is None
        assert not [m for m in loop.model.modules() if m._forward_hooks or m._forward_pre_hooks]
        loop.train(run, 2, 4)
        assert hooks(loop.optimizer) > 0
    assert_bit_equal(loop.state(), unwatched(4))
    why = "ValueError: `batches` must make" if place == "no batch" else "ArithmeticError: boom and more"
    assert said[0].startswith(f"truestep: covariate shift was not measured before step 2 ({why}")
    with load_run(tmp_path) as record:
        assert record.covariate_shift() == []
        assert len(record.steps) == 4
        assert record.meta["status"] == "finished"
        assert [(event.kind, event.step) for event in record.events] == [("unmeasured", 2)]
        assert record.events[0].text.startswith(f"covariate shift: {why}")


def test_a_long_error_is_told_in_short(tmp_path: Path) -> None:
    def fails(*_: Any) -> Tensor:
        raise RuntimeError("x" * 5000)

    loop = Loop()
    with loop.watch(tmp_path) as run, pytest.warns(RuntimeWarning, match="training goes on") as caught:
        run.covariate_shift(BATCHES, fails)
    assert len(str(caught[0].message)) < 450


# --- passes that all ranks make, or none; test_watch_ranks.py has real processes


class Heard:
    """The other ranks: whether one of them failed, pass by pass."""

    def __init__(self, *others: bool) -> None:
        self.others, self.said = [*others], list[bool]()

    def __call__(self, *, failed: bool) -> bool:
        self.said.append(failed)
        return failed or self.others.pop(0)


def test_the_ranks_hear_of_each_other_after_each_pass_and_no_more_after_the_last() -> None:
    heard = Heard(False, False)
    passes = Passes(iter(BATCHES), 2, heard)
    for said in ([False], [False, False]):
        assert [batch.sum() for batch in passes] == [batch.sum() for batch in BATCHES]
        assert heard.said == said
    passes.end(failed=True)
    assert heard.said == [False, False]


def test_a_pass_that_failed_elsewhere_ends_in_an_error_and_nothing_more_is_said() -> None:
    heard = Heard(False, True)
    passes = Passes(BATCHES, 2, heard)
    assert len(list(passes)) == 2
    with pytest.raises(OnAnotherRankError, match="it failed on another rank"):
        list(passes)
    passes.end(failed=True)
    assert heard.said == [False, False]


def test_a_pass_that_fails_here_is_said_once() -> None:
    heard = Heard()
    passes = Passes(BATCHES, 2, heard)
    next(iter(passes))
    for _ in range(2):
        passes.end(failed=True)
    assert heard.said == [True]
