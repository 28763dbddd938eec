"""Who writes, who measures, and what the ranks agree on; test_watch_ranks.py has real processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from truestep.monitor._ranks import Ranks


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def sharded(one_rank: None) -> Tensor:
    return distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,)), [Shard(0)])


def pretend(monkeypatch: pytest.MonkeyPatch, rank: int, others: list[int] | None = None) -> list[list[int]]:
    """Be `rank` of two; an all_reduce takes the maximum with what the other said. Returns what was said here."""
    said: list[list[int]] = []

    def all_reduce(x: Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MAX
        said.append(x.tolist())
        x.copy_(torch.maximum(x, torch.tensor(others)))

    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return said


def test_a_process_alone_writes_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks([torch.ones(2)])
    monkeypatch.setattr(dist, "all_reduce", None)
    assert (ranks.rank, ranks.world_size, ranks.writes, ranks.measures, ranks.together) == (0, 1, True, True, False)
    assert ranks.agree(8, failed=False) == (8, False)
    assert ranks.agree(8, failed=True) == (8, True)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_every_rank_holds_everything_rank_0_measures_alone(
    rank: int, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = pretend(monkeypatch, rank)
    ranks = Ranks([torch.ones(2)])
    assert (ranks.writes, ranks.measures) == (rank == 0, rank == 0)
    assert ranks.agree(4, failed=False) == (4, False)
    assert said == []


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_tensor_is_sharded_all_measure_and_rank_0_chooses_the_period(
    rank: int, sharded: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = pretend(monkeypatch, rank, others=[0, 0] if rank == 0 else [4, 0])
    ranks = Ranks([torch.ones(2), sharded])
    assert (ranks.writes, ranks.measures) == (rank == 0, True)
    assert ranks.agree(4 if rank == 0 else 64, failed=False) == (4, False)
    assert said == [[4 if rank == 0 else 0, 0]]


@pytest.mark.parametrize(("here", "there"), [(False, True), (True, False), (True, True)])
def test_a_failure_anywhere_is_heard_everywhere(
    here: bool, there: bool, sharded: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, 0, others=[0, int(there)])
    assert Ranks([sharded]).agree(2, failed=here) == (2, True)


@pytest.mark.parametrize(("here", "there"), [(False, False), (False, True), (True, False)])
def test_a_failure_is_heard_on_every_rank_also_where_each_holds_everything(
    here: bool, there: bool, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = pretend(monkeypatch, 1, others=[int(there)])
    assert Ranks([torch.ones(2)]).any_failed(failed=here) is (here or there)
    assert said == [[int(here)]]


@pytest.mark.parametrize("failed", [False, True])
def test_a_process_alone_hears_itself(failed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", None)
    assert Ranks([torch.ones(2)]).any_failed(failed=failed) is failed
