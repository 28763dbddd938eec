"""Counts kept on the device say what counts kept on the host say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.loss.skipping._skip_count import SkipCount

FLAGS = st.sampled_from([[0, 0], [1, 0], [0, 1]])


@given(st.lists(st.tuples(FLAGS, st.booleans(), st.booleans()), max_size=12), st.integers(1, 4))
def test_lazily_or_not_the_counts_are_the_same(steps: list[tuple[list[int], bool, bool]], patience: int) -> None:
    mixed, plain = SkipCount(patience), SkipCount(patience)
    for flags, lazily, read in steps:
        plain.add(flags)
        mixed.add_lazily(torch.tensor(flags)) if lazily else mixed.add(flags)
        assert mixed.is_stuck == plain.is_stuck
        if read:
            assert mixed.last == plain.last
    assert mixed.state_dict() == plain.state_dict()


def test_by_hand() -> None:
    count = SkipCount(2)
    for flags in ([1, 0], [0, 1], [0, 0], [0, 1]):
        count.add(flags)
    assert count.reasons == {"not finite": 1, "zero": 2}
    assert (count.last, count.is_stuck) == ("zero", False)
    count.add([1, 0])
    assert (count.last, count.is_stuck) == ("not finite", True)


def test_flags_are_not_kept_by_reference() -> None:
    count, flags = SkipCount(2), torch.tensor([1, 0])
    count.add_lazily(flags)
    flags.zero_()
    assert count.last == "not finite"


@pytest.mark.parametrize("last", [None, "zero", "not finite"])
def test_loaded_counts_go_on(last: str | None) -> None:
    state = {"reasons": {"not finite": 3, "zero": 4}, "streak": 2, "last": last}
    count = SkipCount(3)
    count.add_lazily(torch.tensor([1, 0]))
    count.load_state_dict(state)
    assert count.state_dict() == state
    count.add_lazily(torch.tensor([0, 1]))
    assert count.is_stuck
    assert count.reasons == {"not finite": 3, "zero": 5}
