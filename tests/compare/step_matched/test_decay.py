"""Decay is out of the groups for the time of a step."""

import torch
from torch.optim import SGD, Rprop

from truestep.compare.step_matched._decay import DecayOutside


def test_taken_twice_it_comes_back_as_it_was() -> None:
    rate = torch.tensor(0.5)
    optimizer = SGD([{"params": [torch.ones(1)], "weight_decay": 0.1}, {"params": [torch.ones(1)]}], lr=rate)
    outside = DecayOutside(optimizer)
    outside.take()
    outside.take()  # a step between them ended in an exception
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0]
    torch.testing.assert_close(outside.share(0), torch.tensor(0.05))
    assert outside.share(1) == 0.0
    outside.put_back()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0]


def test_a_rule_without_decay_is_left_alone() -> None:
    optimizer = Rprop([torch.ones(1)])
    outside = DecayOutside(optimizer)
    outside.take()
    assert "weight_decay" not in optimizer.param_groups[0]
    outside.put_back()
