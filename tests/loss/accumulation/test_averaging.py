"""Over ranks the reference is that of all ranks' terms, and every rank is told the same."""

from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.loss.accumulation.check_ranks import SIZES, WORLD
from torch import nn

from truestep.loss.accumulation._averaging import averaging_groups, num_ranks, total_over

WAYS = pytest.mark.parametrize("way", ["ddp", "fsdp"])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the check says on each rank."""
    return seen_by_ranks("tests.loss.accumulation.check_ranks", WORLD, tmp_path_factory.mktemp("check_ranks"))


@WAYS
def test_a_tally_is_right_on_uneven_ranks(way: str, ranks: list[Any]) -> None:
    for found in ranks:
        assert found[way, "tally"]["ok"], found[way, "tally"]
        assert found[way, "tally"]["relative_error"] < 1e-13
        assert found[way, "tally"]["weight"] == sum(map(sum, SIZES))


@WAYS
def test_local_means_on_uneven_ranks_are_wrong(way: str, ranks: list[Any]) -> None:
    for found in ranks:
        assert not found[way, "local means"]["ok"]
        assert "another gradient" in found[way, "local means"]["cause"]


@WAYS
def test_factors_are_named_on_every_rank(way: str, ranks: list[Any]) -> None:
    for found in ranks:
        assert found[way, "missing division"]["ratio"] == pytest.approx(2.0)
        assert "missing division" in found[way, "missing division"]["cause"]
        assert found[way, "equal"]["ok"]
        assert found[way, "equal"]["grads"] == [None] * 4


@WAYS
def test_all_ranks_are_told_the_same(way: str, ranks: list[Any]) -> None:
    first, second = ({key: value for key, value in found.items() if key[0] == way} for found in ranks)
    assert {name: one["ok"] for name, one in first.items()} == {name: one["ok"] for name, one in second.items()}
    for name, one in first.items():
        assert one["ratio"] == pytest.approx(second[name]["ratio"], rel=1e-12)


def test_a_plain_module_averages_over_nobody() -> None:
    assert averaging_groups(nn.Linear(2, 1)) == ()
    assert num_ranks(()) == 1
    assert total_over((), torch.tensor(3.0, dtype=torch.float64)) == 3.0
