"""Ranks that hold parts of one gradient skip together or not at all."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loss.skipping import guard_ranks as script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the gloo processes of `tests.loss.skipping.guard_ranks` saw."""
    folder = tmp_path_factory.mktemp("guard_ranks")
    command = [sys.executable, "-m", "tests.loss.skipping.guard_ranks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(script.WORLD)]


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
