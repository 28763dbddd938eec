"""Flags of what a gradient is: not finite somewhere, zero everywhere, or neither; of shards as of the whole."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import CASES, Triple
from torch import Tensor

from truestep.loss.skipping._verdict import REASONS, groups_of, joined, verdict

NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1e-45, 3e38, torch.nan, torch.inf, -torch.inf])


def plainly(grads: list[Tensor]) -> list[int]:
    numbers = torch.cat([g.flatten().double() for g in grads])
    not_finite = not bool(numbers.isfinite().all())
    return [int(not_finite), int(not not_finite and not bool(numbers.any()))]


@given(st.lists(st.lists(NUMBERS, max_size=4), min_size=1, max_size=4))
def test_it_says_what_a_loop_over_all_elements_says(lists: list[list[float]]) -> None:
    grads = [torch.tensor(numbers) for numbers in lists]
    assert verdict(grads).tolist() == plainly(grads)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_layout_is_read_at_its_own_elements(case: Callable[[], Triple]) -> None:
    grad = case()[1]
    good = [0, int(not grad.to_dense().any())]
    assert verdict([grad]).tolist() == good
    assert verdict([torch.zeros_like(grad)]).tolist() == [0, 1]
    if grad.numel():
        assert verdict([grad * torch.nan]).tolist() == [1, 0]


def test_what_cancels_within_a_sparse_gradient_is_zero() -> None:
    row_one_twice = torch.tensor([[1, 1]]), torch.tensor([[2.0], [-2.0]])
    twice = torch.sparse_coo_tensor(*row_one_twice, (3, 1), check_invariants=True)
    assert verdict([twice]).tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_a_compressed_gradient_is_read_too() -> None:
    dense = torch.tensor([[0.0, torch.inf], [0.0, 0.0]])
    indices = torch.tensor([0, 1, 1]), torch.tensor([1])
    csr = torch.sparse_compressed_tensor(*indices, dense[0, 1:], (2, 2), layout=torch.sparse_csr, check_invariants=True)
    assert verdict([csr]).tolist() == [1, 0]


def test_no_gradient_is_neither() -> None:
    assert verdict([]).tolist() == [0, 0]


def test_the_scaler_s_finding_counts_as_not_finite() -> None:
    for found in (torch.tensor(0.0), torch.tensor([0.0])):
        assert [joined(torch.tensor(flags), found).tolist() for flags in ([0, 0], [1, 0], [0, 1])] == [
            [0, 0],
            [1, 0],
            [0, 1],
        ]
    for found in (torch.tensor(1.0), torch.tensor([2.0])):
        assert all(joined(torch.tensor(flags), found).tolist() == [1, 0] for flags in ([0, 0], [1, 0], [0, 1]))


def test_plain_tensors_ask_nobody() -> None:
    assert groups_of([torch.ones(2)], None) == []
    assert len(REASONS) == 2
