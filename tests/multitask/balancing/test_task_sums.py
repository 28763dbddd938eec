"""Sums of a window's micro-batches are those of the window, and ratios are taken last."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import assert_additive
from torch import Tensor

from truestep.multitask.balancing._task_sums import TaskSums

TASKS = ("a", "b", "c")


def sums_of(losses: Tensor, slopes: Tensor, kpis: int = 1) -> TaskSums:
    """Of one micro-batch: losses [rows, tasks] and their gradients [rows, tasks, features] by row."""
    n = len(losses)
    count = torch.full((3,), n, dtype=torch.float64)
    g = (slopes / n).transpose(0, 1).flatten(1)  # of the mean, at all rows of the features
    products = n**2 * g @ g.T
    kpi = kpis * losses.mean(0)
    return TaskSums(TASKS, count * losses.mean(0), count, count, products.diagonal(), products, kpi, kpis + 0 * kpi)


def rows(powers: list[int] | None = None, number: int = 6) -> tuple[Tensor, Tensor]:
    scale = 10.0 ** torch.tensor(powers or [0, 0, 0], dtype=torch.float64)
    losses = torch.randn(number, 3, dtype=torch.float64).square()
    return scale * losses, scale[:, None] * torch.randn(number, 3, 4, dtype=torch.float64)


def made(**given: Any) -> TaskSums:
    """All zero but what is given."""
    zero = torch.zeros(3, dtype=torch.float64)
    plain = {f.name: zero for f in fields(TaskSums)} | {"tasks": TASKS, "gram": torch.zeros(0, 0, dtype=torch.float64)}
    return TaskSums(**plain | {k: torch.tensor(v, dtype=torch.float64) for k, v in given.items()})


@settings(max_examples=25)
@given(
    powers=st.lists(st.integers(-10, 10), min_size=3, max_size=3),
    cuts=st.sets(st.integers(1, 5), min_size=1, max_size=3),
)
def test_any_cut_of_the_rows_adds_up_to_the_whole(powers: list[int], cuts: set[int]) -> None:
    losses, slopes = rows(powers)
    edges = [0, *sorted(cuts), 6]
    parts = [sums_of(losses[i:j], slopes[i:j]) for i, j in pairwise(edges)]
    whole = sums_of(losses, slopes)
    told = sum(part.kpi for part in parts)
    assert_additive(replace(whole, kpi=told, kpis=whole.kpis * len(parts)), parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    g = (slopes / 6).transpose(0, 1).flatten(1)
    torch.testing.assert_close(total.losses, losses.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(total.norms, g.norm(dim=1), rtol=1e-12, atol=0)
    sizes = torch.outer(g.norm(dim=1), g.norm(dim=1))
    assert ((total.inner - g @ g.T).abs() <= 1e-12 * sizes).all()


def test_the_hand_worked_window_of_unequal_micro_batches() -> None:
    one = made(
        loss=[2.0, 0, 6],
        count=[2.0, 0, 1],
        measured=[2.0, 0, 1],
        squares=[4.0, 0, 9],
        kpi=[0.5, 0, 0],
        kpis=[1.0, 0, 0],
    )
    two = made(
        loss=[4.0, 0, 3],
        count=[2.0, 0, 2],
        measured=[2.0, 0, 0],
        squares=[12.0, 0, 0],
        kpi=[1, 0, 0.25],
        kpis=[1.0, 0, 1],
    )
    window = one + two
    assert window.losses[[0, 2]].tolist() == [1.5, 3.0]
    assert window.norms[[0, 2]].tolist() == [1.0, 3.0]  # c's second gradient was not measured: it is in no mean
    assert window.told[[0, 2]].tolist() == [0.75, 0.25]


def test_an_absent_task_has_neither_loss_nor_norm_nor_kpi_but_inner_products_of_zero() -> None:
    window = made(
        loss=[1.0, 0, 0],
        count=[1.0, 0, 1],
        measured=[1.0, 0, 2],
        squares=[9.0, 0, 16],
        gram=[[9.0, 0, 6], [0, 0, 0], [6, 0, 16]],
    )
    assert window.losses.isnan().tolist() == window.norms.isnan().tolist() == [False, True, False]
    assert window.told.isnan().all()
    assert window.inner.tolist() == [[9.0, 0, 3], [0, 0, 0], [3, 0, 4]]


def test_inner_products_hold_the_squared_norms_and_are_none_where_only_norms_are_measured() -> None:
    whole = sums_of(*rows())
    torch.testing.assert_close(whole.inner.diagonal(), whole.norms.square(), rtol=1e-14, atol=0)
    assert made().inner is None


def test_a_square_just_below_zero_is_a_norm_of_zero() -> None:
    assert made(squares=[-1e-30, 0, 1], measured=[1.0, 1, 1]).norms.tolist() == [0.0, 0.0, 1.0]


def test_sums_of_other_tasks_do_not_add() -> None:
    with pytest.raises(ValueError, match="`tasks` differs"):
        made() + replace(made(), tasks=("a", "b", "x"))


def test_moving_moves_every_tensor_and_nothing_where_it_is() -> None:
    here = made()
    assert here.to(torch.device("cpu")) is here
    there = here.to(torch.device("meta"))
    assert there.tasks == TASKS
    assert all(getattr(there, f.name).is_meta for f in fields(TaskSums) if f.name != "tasks")
