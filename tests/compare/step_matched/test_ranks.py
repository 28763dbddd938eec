"""Ranks of a data-parallel run take one and the same matched step."""

from pathlib import Path

import pytest
import torch
from tests.compare.step_matched import ranks
from tests.compare.step_matched.nets import LENGTHS
from tests.gloo import seen_by_ranks


def test_both_ranks_take_the_same_lengths_and_end_at_the_same_weights(tmp_path: Path) -> None:
    one, other = seen_by_ranks("tests.compare.step_matched.ranks", ranks.WORLD, tmp_path)
    assert one.keys() == other.keys()
    for name, mine in one.items():
        assert torch.equal(mine["took"], other[name]["took"])
        assert torch.equal(mine["weights"], other[name]["weights"])
        norm, grafted = name.split()
        if grafted == "False":
            assert mine["took"].flatten().tolist() == pytest.approx([LENGTHS[norm]] * ranks.STEPS, rel=1e-5)
