"""Several ranks: one record that says what one process would have recorded, and nobody waits for a rank that failed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.monitor.ranks import STEPS, WORLD, build, measured, train

from truestep.core import Step
from truestep.monitor import load_run

FAILING = (
    "measuring a block, rank 1",
    "what was asked, rank 1",
    "on an unrecorded step, rank 1",
    "the every-step path, rank 1",
    "the meter, rank 1",
    "the store, rank 0",
    "the every-step path, rank 0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes of `tests.monitor.ranks` left behind; a rank left waiting fails in time."""
    made = tmp_path_factory.mktemp("ranks")
    seen_by_ranks("tests.monitor.ranks", 2, made)
    return made


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The steps of the same training in one process, on whole batches."""
    run_dir = tmp_path_factory.mktemp("alone")
    train(build(), 0, 1, run_dir=run_dir, every=1, console=None)
    with load_run(run_dir) as record:
        return list(record.steps)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "auto"])
def test_the_record_is_that_of_the_same_training_in_one_process(name: str, folder: Path, alone: list[Step]) -> None:
    with load_run(folder / name) as record:
        steps = list(record.steps)
        assert record.losses()[0].tolist() == list(range(STEPS))
        assert record.meta["world_size"] == str(WORLD)
        kinds = [(block.name, block.kind) for block in record.blocks]
    assert kinds == [(f"{i}.{kind}", f"Linear.{kind}") for i in (0, 2) for kind in ("weight", "bias")]
    assert [step.index for step in steps] == ([0, 1, 2, 4, 8] if name == "auto" else [0, 2, 4, 6, 8])
    for step in steps:
        expected = alone[step.index]
        assert step.names == expected.names
        torch.testing.assert_close(step.took.columns(), expected.took.columns(), rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "auto", "no disk", *FAILING])
def test_no_rank_s_weights_are_touched(name: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank[name]["weights"], rank["alone"]["weights"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "auto"])
def test_rank_0_alone_prints_and_the_others_count_along(name: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (rank[name] for rank in ranks)
    assert first["counted"] == second["counted"] == [STEPS]
    assert first["printed"].startswith("truestep AdamW step 0 |")
    assert second["printed"] == ""
    assert first["warnings"] == second["warnings"] == []


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_rank_0_alone_reads_the_balancer_and_only_at_recorded_steps(
    name: str, ranks: list[dict[str, Any]], folder: Path
) -> None:
    assert [rank[name]["reads"] for rank in ranks] == [5, 0]
    with load_run(folder / name) as record:
        assert [(balance.index, balance.updates) for balance in record.balance] == [
            (0, 1),
            (2, 2),
            (4, 3),
            (6, 4),
            (8, 5),
        ]


def test_all_ranks_take_the_period_that_rank_0_chooses(ranks: list[dict[str, Any]]) -> None:
    assert [rank["auto"]["periods"] for rank in ranks] == [[1, 2, 4, 4, 8, 8, 8, 8, 16]] * WORLD


def test_a_failed_disk_stops_the_writing_and_never_a_collective(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["no disk"] for rank in ranks)
    assert first["counted"] == second["counted"] == [STEPS]
    (message,) = first["warnings"]
    assert "cannot be written" in message
    assert second["warnings"] == []


@pytest.mark.parametrize("name", FAILING)
def test_where_one_rank_fails_all_stop_recording_and_say_so_once(name: str, ranks: list[dict[str, Any]]) -> None:
    failed = int(name[-1])
    assert [rank[name]["closed"] for rank in ranks] == [True] * WORLD
    ours, others = (ranks[rank][name]["warnings"] for rank in (failed, 1 - failed))
    assert ours == ["truestep stopped watching, training goes on: ArithmeticError: boom"]
    assert others == ["truestep stopped watching, training goes on: recording failed on another rank"]
    assert ranks[0][name]["counted"] == ranks[1][name]["counted"]


@pytest.mark.parametrize("name", FAILING)
def test_the_record_of_a_run_that_failed_on_one_rank_keeps_what_came_before(name: str, folder: Path) -> None:
    with load_run(folder / name) as record:
        assert record.meta["status"] == "failed"
        assert [step.index for step in record.steps][:2] == [0, 2]
        assert record.events[-1].kind == "unwatched"


# --- covariate shift, measured on demand


@pytest.fixture(scope="module")
def shifts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds on whole batches."""
    return measured(build(), 0, 1, tmp_path_factory.mktemp("shift"))


def numbers(rows: list[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([[value for value in row.values() if not isinstance(value, str)] for row in rows]).double()


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_all_ranks_find_the_covariate_shift_of_whole_batches_and_rank_0_alone_records_it(
    name: str, ranks: list[dict[str, Any]], shifts: dict[str, Any], folder: Path
) -> None:
    for rank in ranks:
        found = rank[f"shift, {name}"]
        assert found["warnings"] == []
        for mine, expected in zip(found["rows"], shifts["rows"], strict=True):
            assert [row["layer"] for row in mine] == [row["layer"] for row in expected] == ["0", "2"]
            assert 0 < expected[1]["ics_share"] < 1
            torch.testing.assert_close(numbers(mine), numbers(expected), rtol=1e-5, atol=1e-9, equal_nan=True)
    with load_run(folder / f"shift, {name}") as record:
        rows = record.covariate_shift()
    first = [row for found in ranks[0][f"shift, {name}"]["rows"] for row in found]
    assert [(row["step"], row["nu"]) for row in rows] == [
        (1 + place // 2, row["nu"]) for place, row in enumerate(first)
    ]


@pytest.mark.parametrize("fails", ["batch", "loss 2", "loss 5"])
def test_what_fails_on_one_rank_is_measured_on_none_and_the_ranks_go_on_together(
    fails: str, ranks: list[dict[str, Any]], shifts: dict[str, Any], folder: Path
) -> None:
    whole = ranks[0]["shift, ddp"]
    for number, rank in enumerate(ranks):
        found = rank[f"shift, {fails} fails"]
        why = "ArithmeticError: boom" if number == 1 else "it failed on another rank"
        assert found["warnings"] == [
            f"truestep: covariate shift was not measured before step 1 ({why}); training goes on"
        ]
        torch.testing.assert_close(found["weights"], whole["weights"], rtol=0, atol=0)
        assert found["rows"][0] is None
        torch.testing.assert_close(
            numbers(found["rows"][1]), numbers(shifts["rows"][1]), rtol=1e-5, atol=1e-9, equal_nan=True
        )
    with load_run(folder / fails) as record:
        assert {row["step"] for row in record.covariate_shift()} == {2}
        assert [(event.kind, event.step) for event in record.events] == [("unmeasured", 1)]
        assert len(record.steps) == 3
