import pytest
import torch

from truestep.compare.problems import digits_mlp, rosenbrock
from truestep.compare.rank._grid import beyond, first_length, half_decades
from truestep.compare.step_matched import StepMatched

LEFT, RIGHT, INNER = (1.0, 2.0, 3.0), (3.0, 2.0, 1.0), (2.0, 1.0, 3.0)


def test_past_either_edge_there_are_two_more_half_decades() -> None:
    values = half_decades(-1, 1)
    assert beyond(values, LEFT) == half_decades(-3, -2)
    assert beyond(values, RIGHT) == half_decades(2, 3)
    assert beyond(values, INNER) == ()


def test_a_grown_grid_has_no_gap_and_nothing_twice() -> None:
    values = half_decades(-3, 3)
    for _ in range(4):
        levels = [float(-i) for i in range(len(values))]
        values = values + beyond(values, levels)
    assert values == half_decades(-3, 11)


@pytest.mark.parametrize("scope", ["global", "group", "tensor", "unit"])
def test_the_first_length_in_l2_adds_up_to_the_same_whole_step_in_every_scope(scope: str) -> None:
    model = digits_mlp().build(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    size = sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5
    before = [p.detach().clone() for p in model.parameters()]
    StepMatched(optimizer, first_length(digits_mlp(), "l2", scope), scope=scope)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    moved = sum(float((p - q).detach().square().sum()) for p, q in zip(model.parameters(), before, strict=True)) ** 0.5
    assert moved / size == pytest.approx(0.03, rel=0.05)


def test_lengths_of_entries_are_of_the_weights_root_mean_square() -> None:
    weights = torch.cat([p.detach().flatten() for p in digits_mlp().build(0).parameters()])
    for norm in ("rms", "linf"):
        length = first_length(digits_mlp(), norm, "global")
        assert length == pytest.approx(0.03 * float(weights.square().mean().sqrt()), rel=0.05)


def test_relative_lengths_and_angles_need_no_weights() -> None:
    assert first_length(rosenbrock(), "relative", "unit") == first_length(rosenbrock(), "angular", "global") == 0.03
