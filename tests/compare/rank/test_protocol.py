import math

import pytest
import torch

from truestep.compare.rank import Protocol, judge_protocol
from truestep.compare.statistics import geometric_interval

INF, NAN = math.inf, math.nan


def judged(losses: dict[str, list[list[float]]], **settings: object) -> Protocol:
    tensors = {name: torch.tensor(each, dtype=torch.float64) for name, each in losses.items()}
    grid = {name: [10.0**i for i in range(len(each))] for name, each in losses.items()}
    half = {name: each * 2 for name, each in tensors.items()}
    return judge_protocol("tuned lr", "lr", grid, tensors, half, ceiling=1e3, **settings)


def test_each_is_ranked_by_the_geometric_mean_at_its_best_value() -> None:
    protocol = judged({"sgd": [[9.0, 9.0], [1.0, 4.0]], "adam": [[1.9, 1.9], [3.0, 3.0]], "lion": [[5.0, 5.0]]})
    assert protocol.best == {"sgd": 10.0, "adam": 1.0, "lion": 1.0}
    assert protocol.rank == {"sgd": 2, "adam": 1, "lion": 3}
    assert protocol.order == ["adam", "sgd", "lion"]
    assert protocol.loss["sgd"] == geometric_interval(torch.tensor([1.0, 4.0]).double(), 1e3)
    assert protocol.loss["sgd"].mean == pytest.approx(2.0)


def test_diverged_runs_count_as_the_ceiling_and_come_last() -> None:
    protocol = judged({"bad": [[INF, NAN]], "wild": [[0.001, INF]], "good": [[2.0, 2.0]], "worse": [[5e4, 1.0]]})
    assert protocol.diverged == {"bad": 1.0, "wild": 0.5, "good": 0.0, "worse": 0.5}
    assert protocol.loss["bad"].mean == pytest.approx(1e3)
    assert protocol.loss["wild"].mean == pytest.approx(1.0)  # sqrt(0.001 x 1000)
    assert protocol.order == ["wild", "good", "worse", "bad"]


def test_equal_ones_share_the_better_rank() -> None:
    protocol = judged({"a": [[1.0, 1.0]], "b": [[INF, INF]], "c": [[NAN, INF]]})
    assert protocol.rank == {"a": 1, "b": 2, "c": 2}


def test_a_budget_gives_the_expected_best_of_that_many_draws() -> None:
    protocol = judged({"a": [[1.0, 1.0], [4.0, 4.0]]}, budgets=(1, 2, 100))
    assert protocol.budget["a"] == {
        1: pytest.approx(2.0),  # the geometric mean
        2: pytest.approx(4**0.25),  # the worse is left in a quarter of all pairs
        100: pytest.approx(1.0),
    }


def test_the_edge_is_where_the_grid_ends_and_one_value_has_none() -> None:
    protocol = judged({"left": [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], "inner": [[2.0] * 2, [1.0] * 2, [2.0] * 2]})
    assert protocol.at_edge("left")
    assert not protocol.at_edge("inner")
    assert not judged({"only": [[1.0, 1.0]]}).at_edge("only")


def test_half_of_training_is_read_at_the_value_that_is_best_at_the_end() -> None:
    protocol = judged({"a": [[5.0, 5.0], [1.0, 1.0]]})
    assert protocol.half_levels(1e3).tolist() == pytest.approx([math.log(2.0)])
    assert protocol.levels.tolist() == [0.0]


def test_ranks_come_with_their_probabilities() -> None:
    protocol = judged({"a": [[3.0, 3.1]], "b": [[1.0, 1.1]]})
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    torch.testing.assert_close(protocol.probabilities, swapped, rtol=0, atol=0.05)
    assert protocol.better[1, 0] > 0.95
