"""Paths: distances worked out by hand, and that speed along a path is no distance."""

import math

import pytest
import torch
from torch import Tensor

from truestep.compare.speed import path_test
from truestep.compare.speed._path import path_distance, path_length


def on_circle(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], -1)


def test_the_nearest_place_is_inside_a_segment_or_at_its_end() -> None:
    path = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    for point, distance in (([1.0, 3.0], 3.0), ([7.0, 4.0], 5.0), ([-3.0, -4.0], 5.0), ([2.0, 0.0], 0.0)):
        assert float(path_distance(torch.tensor([point]), path)) == pytest.approx(distance)


def test_a_segment_of_no_length_is_a_point() -> None:
    path = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(path_distance(torch.tensor([[4.0, 4.0]]), path)) == pytest.approx(5)


def test_the_same_path_at_another_speed_has_no_distance() -> None:
    bends = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    fast = bends[None]
    slow = torch.stack([bends[0], bends[:2].mean(0), bends[1], bends[1:3].mean(0), bends[2]])[None]
    assert float(path_distance(slow, fast)) == pytest.approx(0, abs=1e-12)
    assert float(path_distance(fast, slow)) > 0.4  # the end of the fast one is beyond


def test_scale_and_rotation_leave_the_path_test_as_it_is() -> None:
    paths = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    here, there = path_test(*paths), path_test(*(1e3 * paths @ turn))
    assert (there.distance_at_one, there.distance, there.floor) == pytest.approx(
        (here.distance_at_one, here.distance, here.floor)
    )


def test_distances_are_shares_of_the_length_of_b() -> None:
    turn = torch.linspace(0, math.pi / 2, 200, dtype=torch.float64)
    b = on_circle(turn)[None]
    test = path_test(2 * b, b, b, 1.5 * b)
    assert float(path_length(b)) == pytest.approx(math.pi / 2, rel=1e-4)
    assert (test.distance_at_one, test.distance, test.floor) == pytest.approx((2 / math.pi, 0, 1 / math.pi), rel=1e-3)
    assert str(test) == "0 of B's length (0.64 at A's own lr, floor 0.32)"
