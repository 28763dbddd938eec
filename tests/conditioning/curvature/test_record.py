"""What a Sharpness says of itself, and against an lr."""

import torch

from truestep.conditioning.curvature import Sharpness, edge

FOUND = Sharpness(torch.tensor([30.0, 2.0], dtype=torch.float64), loss=1.5, products=22, train_mode=False)


def test_it_is_held_against_the_edge_of_each_rule() -> None:
    assert FOUND.times_lr(0.1) == 3.0
    assert FOUND.at_edge(0.1) == 1.5
    assert FOUND.at_edge(0.1, 0.5, averaged=True) == 30.0 / edge(0.1, 0.5, averaged=True)
    assert FOUND.at_edge(0.1, 0.5, nesterov=True) == 30.0 / edge(0.1, 0.5, nesterov=True)


def test_it_prints_its_mode_and_its_warnings() -> None:
    assert str(FOUND) == "sharpness 30, 2 (hessian, eval mode, loss 1.5, 22 products)"
    warned = Sharpness(FOUND.eigenvalues, matrix="ggn", preconditioned=True, loss=1.0, warnings=("a", "b"))
    assert str(warned).split("\n") == [
        "sharpness 30, 2 (ggn, preconditioned, train mode, loss 1, 0 products)",
        "warning: a",
        "warning: b",
    ]
