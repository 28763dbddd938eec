"""The report names the blocks that kept their own steps."""

import torch

from truestep.compare.step_matched._report import MatchReport


def test_it_names_them_with_the_lengths_they_took() -> None:
    lengths = torch.tensor([[0.1, 0.1], [0.1, 0.7]], dtype=torch.float64)
    report = MatchReport(5, "l2", ("a", "b"), *lengths, torch.tensor([False, True]), torch.tensor([0, 2]))
    assert report.unmatched == {"b": 0.7}
    assert str(report).splitlines() == [
        "5 steps, l2 matched on 2 blocks",
        "  b: 2 of 5 steps not matched; the latest step wanted 0.1, took 0.7",
    ]


def test_of_a_block_that_is_matched_again_no_length_is_told_and_only_the_ten_worst_have_a_line() -> None:
    count = torch.arange(12)
    lengths = torch.full((12,), 0.5, dtype=torch.float64)
    report = MatchReport(20, "rms", tuple("abcdefghijkl"), lengths, lengths, torch.zeros(12, dtype=torch.bool), count)
    lines = str(report).splitlines()
    assert lines[1] == "  l: 11 of 20 steps not matched"
    assert lines[10:] == ["  c: 2 of 20 steps not matched", "  and 1 blocks more"]
