"""Steps are counted and lengths noted on the host, or on a device that alone knows what was skipped."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from truestep.compare.step_matched._blocks import Blocks, list_blocks
from truestep.compare.step_matched._tally import Tally


def blocks(count: int) -> Blocks:
    return list_blocks(SGD([nn.Parameter(torch.ones(1)) for _ in range(count)]), "tensor")


def note(tally: Tally, of: Blocks, length: float, kept: list[bool], skipped: torch.Tensor | None = None) -> None:
    lengths = torch.full((len(kept),), length, dtype=torch.float64)
    tally.note(of, lengths, 2 * lengths, torch.tensor(kept), skipped)


def test_the_latest_lengths_stand_and_the_unmatched_add_up() -> None:
    of = blocks(2)
    tally = Tally(of)
    assert tally.latest[0].isnan().all()
    note(tally, of, 0.5, [True, False])
    note(tally, of, 0.25, [True, True])
    assert tally.steps == 2
    assert [x.tolist() for x in tally.latest] == [[0.25, 0.25], [0.5, 0.5], [True, True], [2, 1]]


def test_a_step_that_the_device_skipped_leaves_all_as_it_was() -> None:
    of = blocks(1)
    tally = Tally(of)
    note(tally, of, 0.5, [True], torch.tensor(0.0))
    note(tally, of, 0.25, [True], torch.tensor([1.0]))
    assert isinstance(tally.steps, torch.Tensor)
    assert int(tally.steps) == 1
    assert [x.tolist() for x in tally.latest] == [[0.5], [1.0], [True], [1]]


def test_other_blocks_are_counted_anew() -> None:
    tally = Tally(blocks(1))
    note(tally, blocks(1), 0.5, [True])
    note(tally, blocks(2), 0.5, [True, False])
    assert tally.latest[3].tolist() == [1, 0]
    assert tally.steps == 2


@pytest.mark.parametrize("skipped", [None, torch.tensor(0.0)])
def test_a_saved_state_is_a_copy_and_goes_on(skipped: torch.Tensor | None) -> None:
    of = blocks(1)
    tally, again = Tally(of), Tally(of)
    note(tally, of, 0.5, [True], skipped)
    state = tally.state_dict()
    note(tally, of, 0.25, [True], skipped)
    again.load_state_dict(state)
    assert int(again.steps) == 1
    assert again.latest[0].tolist() == [0.5]
    with pytest.raises(ValueError, match="must be of 2 blocks, found"):
        Tally(blocks(2)).load_state_dict(state)
