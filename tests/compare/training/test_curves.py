"""Curves survive a store of JSON."""

import json

import torch

from truestep.compare.training import Curves


def test_every_number_survives_json_bit_by_bit_inf_and_nan_too() -> None:
    losses = torch.tensor([[0.1, 1 / 3, torch.inf], [1e-300, -torch.inf, torch.nan]], dtype=torch.float64)
    curves = Curves((1, 2, 30), losses, torch.zeros(2, 3, 1), False, "a reason")
    read = Curves.from_dict(json.loads(json.dumps(curves.as_dict(), allow_nan=False)))
    assert torch.equal(read.losses.nan_to_num(7.0), losses.nan_to_num(7.0))
    assert (read.steps, read.paths, read.stacked, read.why_not) == ((1, 2, 30), None, False, "a reason")


def test_no_replicas_are_no_rows() -> None:
    assert Curves.from_dict({"steps": [1], "losses": [], "stacked": True, "why_not": ""}).losses.shape == (0, 1)
