"""Batches become rows: no block is looked up twice, no lr written twice, and what was rolled back is written anew."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.monitor.written import NAMES, a_step, column, rows

from truestep.monitor._schema import FILE
from truestep.monitor.sinks import _file
from truestep.monitor.sinks._rows import Batch
from truestep.monitor.sinks._writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    with closing(_file.create(path, {"id": "abc"})) as connection:
        yield Writer(connection, 1e9)


def lrs(*values: float | torch.Tensor, start: int = 0, group: int = 0) -> Batch:
    return Batch(
        schedule=[(1, start + index, group, lr) for index, lr in enumerate(values)], optimizers=[(1, "SGD", "SGD", "")]
    )


def test_blocks_are_looked_up_once_though_every_step_has_a_tuple_of_its_own(writer: Writer) -> None:
    writer.write(Batch(steps=[a_step(0)]))
    ids = writer._block_ids(1, NAMES)
    assert writer._block_ids(1, (*NAMES,)) is ids
    assert writer._block_ids(1, NAMES[::-1]).tolist() == ids.tolist()[::-1]


def test_an_lr_is_written_where_it_differs_from_the_last_one_of_its_group(writer: Writer, path: Path) -> None:
    writer.write(lrs(*torch.tensor([0.5, 0.5, 0.25])))
    writer.write(lrs(0.25, 0.5, math.nan, math.nan, start=3))
    writer.write(lrs(0.5, 0.5, group=1))
    found = rows(path, "SELECT param_group, step, lr FROM schedule ORDER BY param_group, step")
    assert found == [(0, 0, 0.5), (0, 2, 0.25), (0, 4, 0.5), (0, 5, None), (1, 0, 0.5)]


def test_the_first_lr_of_a_resumed_run_is_written_whatever_was_last(writer: Writer, path: Path) -> None:
    writer.write(lrs(0.5, 0.25))
    resumed = Writer(writer.connection, 1e9)
    resumed.rewind({"SGD": 1}, {})
    resumed.write(lrs(0.25, 0.25, start=1))
    assert rows(path, "SELECT step, lr FROM schedule") == [(0, 0.5), (1, 0.25)]


def test_a_batch_that_was_rolled_back_is_written_as_if_for_the_first_time(writer: Writer, path: Path) -> None:
    batch = replace(lrs(0.5), steps=[a_step(0), a_step(0, optimizer="other", names=("loose",))])
    unknown = [(0.0, 7, 0, "tag", "of an optimizer that nobody registered")]
    with pytest.raises(KeyError):
        writer.write(replace(batch, events=unknown))
    assert column(path, "SELECT * FROM block") == column(path, "SELECT * FROM schedule") == []
    writer.write(lrs(0.25, start=9))  # takes the ids that were given back
    writer.write(batch)
    assert column(path, "SELECT name FROM optimizer ORDER BY id") == ["SGD", "other"]
    joined = "SELECT name FROM block_step JOIN block ON block.id = block ORDER BY block_step.optimizer, block"
    assert column(path, joined) == [*NAMES, "loose"]
    assert rows(path, "SELECT step, lr FROM schedule") == [(0, 0.5), (9, 0.25)]
