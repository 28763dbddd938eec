"""Ranks that hold parts of one gradient skip together or not at all."""

from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.loss.skipping import guard_ranks as script


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.loss.skipping.guard_ranks` saw."""
    return seen_by_ranks("tests.loss.skipping.guard_ranks", script.WORLD, tmp_path_factory.mktemp("guard_ranks"))


@pytest.mark.parametrize("rule", script.RULES)
@pytest.mark.parametrize("way", ["sharded", "group"])
def test_all_ranks_skip_for_what_one_of_them_holds(way: str, rule: str, ranks: list[Any]) -> None:
    for rank in ranks:
        run = rank[f"{way}, {rule}"]
        assert run["reasons"] == list(script.EXPECTED)
        assert run["still"][1:3] == [True, True]
        assert run["still"][5:7] == [True, True]
        assert run["counts"] == {"not finite": 3, "zero": 1}
    assert not any(rank[f"{way}, {rule}"]["still"][index] for rank in ranks for index in (0, 7))


def test_a_rank_without_gradients_takes_part(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["without gradients"]["reasons"] == [None, "not finite", "zero", None]


def test_replicas_need_no_word_with_each_other(ranks: list[Any]) -> None:
    one, other = (rank["replica"] for rank in ranks)
    assert one["reasons"] == other["reasons"] == [None, "not finite", None]
    assert torch.equal(one["weights"], other["weights"])
    assert one["weights"].isfinite().all()
