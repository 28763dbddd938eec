"""The report names the blocks that kept their own steps."""

import torch

from truestep.compare.step_matched._report import MatchReport


def test_it_names_them_with_the_lengths_they_took() -> None:
    lengths = torch.tensor([[0.1, 0.1], [0.1, 0.7]], dtype=torch.float64)
    report = MatchReport(5, "l2", ("a", "b"), *lengths, torch.tensor([False, True]), torch.tensor([0, 2]))
    assert report.unmatched == {"b": 0.7}
    assert str(report).splitlines() == [
        "5 steps, l2 matched on 2 blocks",
        "  b: 2 steps not matched; the latest one wanted 0.1, took 0.7",
    ]
