"""Two gloo processes with the real Trainer, Lightning and Accelerate: every gradient is the union batch's."""

import socket
from typing import Any

import pytest
from tests.gloo import seen_by_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.integrations.ranks` measured."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    return seen_by_ranks("tests.integrations.ranks", 2, folder, **where)


@pytest.mark.parametrize("case", ["argument", "attached", "attached, counts not gathered", "attached, rows"])
def test_on_two_ranks_the_gradient_is_the_union_s(case: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank[f"trainer, {case}"]["train"] < 1e-5
        assert rank[f"trainer, {case}"]["check"] < 1e-5


def test_on_two_ranks_a_model_that_ignores_the_count_is_multiplied_by_their_number_too(ranks: list[Any]) -> None:
    for rank in ranks:
        found = rank["trainer, none, classes"]
        assert found["ratio"] == pytest.approx(8.0, abs=1e-3)
        assert found["train"] == pytest.approx(7.0, abs=1e-3)
        assert "missing division: 8 micro-batches" in found["cause"]
        assert "mean of means" in rank["trainer, none"]["cause"]
        assert rank["trainer, none"]["check"] == pytest.approx(rank["trainer, none"]["train"], rel=1e-3)


@pytest.mark.parametrize("case", ["tally", "short window"])
def test_on_two_ranks_every_window_s_gradient_is_the_union_s(case: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank[f"lightning, {case}"] < 1e-14


@pytest.mark.parametrize("case", ["full", "short"])
def test_on_two_ranks_a_tally_is_exact_for_ragged_and_short_windows(case: str, ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["accelerator"][case] < 1e-14


def test_on_two_ranks_the_monitor_counts_the_terms_of_both(ranks: list[Any]) -> None:
    counts = [[1, 3], [2, 4]]  # of a window of ten terms, by rank; then one and two of a window of three
    for rank, (full, short) in enumerate(found["monitor"] for found in ranks):
        assert (full["factor"], short["factor"]) == (1.0, 0.5)
        assert full["ratios"] == pytest.approx([10 / 4 / num for num in counts[rank]])
        assert short["ratios"] == pytest.approx([3 / 4 / (1 + rank)])
