import math
from typing import Any

import torch

from truestep.compare.rank import judge_protocol
from truestep.compare.rank._cautions import (
    at_the_edge,
    budget_decides,
    changes_before_the_end,
    diverged,
    list_cautions,
    norm_decides,
    not_settled,
)

CLEAR = {"sgd": [[3.0, 3.1], [1.0, 1.1], [4.0, 4.1]], "adam": [[9.0, 9.1], [2.0, 2.1], [9.0, 9.1]]}


def judged(losses: dict[str, list[list[float]]] = CLEAR, name: str = "tuned lr", **settings: Any) -> Any:
    tensors = {key: torch.tensor(each, dtype=torch.float64) for key, each in losses.items()}
    grid = {key: [10.0**i for i in range(len(each))] for key, each in losses.items()}
    knob = "length" if name.startswith("matched") else "lr"
    return judge_protocol(name, knob, grid, tensors, tensors, ceiling=1e3, **settings)


def test_a_ranking_without_reason_for_doubt_has_no_warning() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    assert list_cautions([judged(budgets=(1, 30))], one, {"tuned lr": 1.0}, seeds=2) == ()


def test_diverged_runs_are_told() -> None:
    wild = judged({"lion": [[1.0, math.inf, 1.0, 1.0]], "adam": [[5.0] * 4]})
    assert diverged(wild) == ["tuned lr: 25% of the runs of lion diverged"]


def test_an_optimum_on_the_grids_edge_is_told() -> None:
    edge = judged({"sgd": [[2.0, 2.0], [1.0, 1.0]], "adam": [[1.0, 1.0], [2.0, 2.0]], "lion": [[1.0, 1.0]]})
    (sentence,) = at_the_edge(edge)
    assert "the best lr tried lies on the grid's edge for sgd (10) and adam (1)" in sentence


def test_a_norm_that_turns_the_order_round_is_told() -> None:
    swapped = dict(zip(CLEAR, reversed(CLEAR.values()), strict=True))
    protocols = [judged(), judged(name="matched l2 global"), judged(swapped, name="matched linf unit")]
    tau = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]).double()
    (sentence,) = norm_decides(protocols, tau)
    assert sentence.startswith("the order depends on the norm of the step: sgd leads in matched l2 global, adam in")
    assert norm_decides(protocols, torch.ones_like(tau)) == []


def test_a_budget_that_changes_the_winner_is_told() -> None:
    narrow = {"narrow": [[100.0] * 2, [0.1] * 2, [100.0] * 2], "broad": [[1.0] * 2] * 3}
    (sentence,) = budget_decides(judged(narrow, budgets=(1, 2, 30)))
    assert sentence.endswith("broad from 1 on, narrow from 30 on")
    assert budget_decides(judged(narrow)) == []


def test_an_order_that_changes_before_the_end_is_told() -> None:
    assert "tau 0.33" in changes_before_the_end(judged(), 1 / 3)[0]
    assert changes_before_the_end(judged(), 0.8) == changes_before_the_end(judged(), math.nan) == []


def test_neighbours_that_the_seeds_cannot_tell_apart_are_told() -> None:
    a, b, c = [[1.0, 2.0, 3.0]], [[1.1, 1.9, 3.1]], [[90.0, 190.0, 280.0]]
    near = judged({"a": a, "b": b, "c": c})
    assert not_settled(near, seeds=3) == ["tuned lr: 3 seeds do not settle a / b"]
    rows = judged({"a": a, "b": b, "c": c, "d": c, "e": c})
    assert not_settled(rows, seeds=3) == ["tuned lr: 3 seeds do not settle a / b and c / d / e"]
