"""`kill -9` in the middle of a watched run, again and again in the same record."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.monitor.loops import Loop
from tests.monitor.written import NAMES, TASKS, a_balance, a_step, column, rows, write

from truestep.monitor._run import load_run
from truestep.monitor.sinks import Store

KILLS, RUN_ID = 20, "c0ffee"
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.monitor.nursery"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process


def until_killed(
    nursery: subprocess.Popen[str], order: dict[str, object], patience: float, *, reported: int | None = None
) -> int:
    """Have a writer record, kill it `patience` seconds after its first report; returns what it had flushed.

    Where one before it `reported` something, its own first report is not waited for.
    """
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(order) + "\n")
    pid = int(nursery.stdout.readline())
    reports = [int(nursery.stdout.readline()) if reported is None else reported]
    time.sleep(patience)
    os.kill(pid, signal.SIGKILL)
    while (line := nursery.stdout.readline()) != "dead\n":
        if line.endswith("\n"):
            reports.append(int(line))
    return reports[-1]


def test_nothing_flushed_is_lost_and_no_row_is_doubled_by_twenty_kills_and_resumes(
    tmp_path: Path, nursery: subprocess.Popen[str]
) -> None:
    rng = random.Random(0)
    path, checkpoint, marks = tmp_path / "run.db", 0, []
    for kill in range(KILLS):
        order = {"run_dir": str(tmp_path), "run_id": RUN_ID, "next_step": checkpoint, "mark": float(kill)}
        flushed = until_killed(nursery, order, rng.uniform(0.0, 0.25))
        with load_run(tmp_path) as run:  # opens as it was left
            steps, losses = run.losses()
        assert column(path, "PRAGMA integrity_check") == ["ok"]
        marks[checkpoint:] = [float(kill)] * (len(steps) - checkpoint)
        assert steps.tolist() == list(range(len(steps)))
        assert len(steps) >= flushed
        assert losses.tolist() == marks  # what was taken back was replaced, what came before stayed
        for table, each in (("step", 1), ("block_step", len(NAMES)), ("balance_step", 1), ("task_step", len(TASKS))):
            counts = rows(path, f"SELECT step, count(*) FROM {table} GROUP BY step")
            assert [count for _, count in counts[:flushed]] == [each] * flushed
        checkpoint = rng.randrange(flushed // 2, flushed)
    assert column(path, "SELECT count(*) FROM event WHERE kind = 'resume'") != [0]
    assert [file.name for file in tmp_path.glob("*.db")] == ["run.db"]


def test_a_killed_run_reads_as_running_and_its_steps_are_those_given(
    tmp_path: Path, nursery: subprocess.Popen[str]
) -> None:
    flushed = until_killed(nursery, {"run_dir": str(tmp_path), "run_id": RUN_ID, "next_step": 0, "mark": 0.5}, 0.05)
    with load_run(tmp_path) as run:
        assert run.meta["status"] == "running"
        for index, step in zip(range(flushed), run.steps, strict=False):
            assert (step.index, step.loss, step.names) == (index, 0.5, NAMES)
            torch.testing.assert_close(step.took.columns(), a_step(index).took.columns(), rtol=0, atol=0)
        assert list(run.balance)[:flushed] == [a_balance(index) for index in range(flushed)]


def test_the_next_run_renames_what_was_killed_with_all_that_was_committed(
    tmp_path: Path, nursery: subprocess.Popen[str]
) -> None:
    flushed = until_killed(nursery, {"run_dir": str(tmp_path), "run_id": RUN_ID, "next_step": 0, "mark": 0.0}, 0.05)
    assert (tmp_path / "run.db-wal").stat().st_size > 0  # rows that are in the log only
    store = Store(tmp_path, meta={})
    write(store, range(3))
    store.close()
    (older,) = tmp_path.glob("run-*.db")
    assert not list(tmp_path.glob("*-wal"))
    assert len(column(older, "SELECT step FROM step")) >= flushed
    assert column(tmp_path / "run.db", "SELECT step FROM step") == [0, 1, 2]


def test_a_watched_run_killed_twenty_times_is_one_run_without_gap_or_double(
    tmp_path: Path, nursery: subprocess.Popen[str]
) -> None:
    rng, path, saved = random.Random(1), tmp_path / "run.db", {0}
    for kill in range(KILLS):
        anywhere = max(saved) if kill % 4 == 3 else None  # while it starts and resumes, too
        reported = until_killed(nursery, {"run_dir": str(tmp_path)}, rng.uniform(0.0, 0.2), reported=anywhere)
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["watch"]
        saved |= set(state["next_step"].values())
        assert column(path, "PRAGMA integrity_check") == ["ok"]
        with load_run(tmp_path) as run:
            steps, losses = run.losses()
            assert run.meta["id"] == state["run"]
        assert len(steps) >= max(saved) >= reported
        assert steps.tolist() == list(range(len(steps)))
    loop = Loop()
    loop.train(None, 0, len(steps))  # as if nobody had killed it
    assert losses.tolist()[: max(saved)] == loop.losses[: max(saved)]
    resumed = column(path, "SELECT step FROM event WHERE kind = 'resume'")
    assert len(resumed) > KILLS // 2
    assert set(resumed) <= saved
    (blocks,) = column(path, "SELECT count(*) FROM block")
    counts = rows(path, "SELECT step, count(*) FROM block_step GROUP BY step")
    assert counts[: max(saved)] == [(index, blocks) for index in range(max(saved))]
    assert column(path, "SELECT count(*) FROM optimizer") == [1]
    assert [file.name for file in tmp_path.glob("*.db")] == ["run.db"]  # never begun anew
