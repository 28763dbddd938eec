"""The objectives: what is summed, and what it is divided by."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from truestep.loss._reduction import from_mean, unreduced

LOSSES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
WEIGHT = torch.tensor([[1.0, 2.0, 9.0], [0.0, 1.0, 1.0], [5.0, 5.0, 5.0]])


@pytest.mark.parametrize(
    ("per", "mask", "weight", "loss", "denominator", "count"),
    [
        ("token", None, None, 45.0, 9, 9),
        ("token", MASK, None, 1 + 2 + 4, 3, 3),
        ("token", MASK, WEIGHT, 1 + 4 + 0, 2, 2),  # a weight of 0 is an ignored target
        ("weight", MASK, WEIGHT, 1 + 4 + 0, 1 + 2 + 0, 2),
        ("weight", None, WEIGHT, 1 + 4 + 27 + 0 + 5 + 6 + 120, 29, 8),
        ("item", None, None, 2 + 5 + 8, 3, 9),
        ("item", MASK, None, 1.5 + 4, 2, 3),  # the third row keeps nothing and is no item
        ("item", MASK, WEIGHT, (1 + 4) / 2, 1, 2),
        ("item", None, WEIGHT, (1 + 4 + 27) / 3 + (5 + 6) / 2 + (35 + 40 + 45) / 3, 3, 8),
    ],
)
def test_worked_by_hand(
    per, mask: Tensor | None, weight: Tensor | None, loss: float, denominator: float, count: int
) -> None:
    sums = unreduced(LOSSES, mask, weight, per)
    assert (sums.loss.item(), sums.weight.item(), sums.count.item()) == (loss, denominator, count)


@given(seed=st.integers(0, 20), exponent=st.integers(-10, 10), cut=st.integers(0, 9))
def test_two_parts_add_up_to_the_whole(seed: int, exponent: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(9, 4, generator=generator, dtype=torch.float64) * 10.0**exponent
    mask = torch.rand(9, 4, generator=generator) < 0.5
    weight = torch.rand(9, 4, generator=generator, dtype=torch.float64)
    for per in ("item", "token", "weight"):
        whole = unreduced(losses, mask, weight, per)
        parts = unreduced(losses[:cut], mask[:cut], weight[:cut], per) + unreduced(
            losses[cut:], mask[cut:], weight[cut:], per
        )
        torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-13, atol=0)
        torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-13, atol=0)


def test_it_is_torch_s_own_mean_where_torch_has_one() -> None:
    logits = torch.randn(20, 5, dtype=torch.float64)
    target = torch.randint(5, (20,))
    target[3] = -100
    classes = torch.rand(5, dtype=torch.float64)
    losses = cross_entropy(logits, target, reduction="none")
    kept = target != -100
    weight = classes[target.clamp_min(0)]
    torch.testing.assert_close(unreduced(losses, kept, None, "token").mean, cross_entropy(logits, target))
    torch.testing.assert_close(unreduced(losses, kept, weight, "weight").mean, cross_entropy(logits, target, classes))
    log_q, p = logits.log_softmax(1), torch.randn(20, 5, dtype=torch.float64).softmax(1)
    rows = kl_div(log_q, p, reduction="none").sum(1)
    torch.testing.assert_close(unreduced(rows, None, None, "item").mean, kl_div(log_q, p, reduction="batchmean"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_float64_whatever_the_losses_are(dtype: torch.dtype) -> None:
    losses = (torch.rand(4096) * 100).to(dtype)
    sums = unreduced(losses, None, None, "token")
    assert sums.loss.dtype == torch.float64
    torch.testing.assert_close(sums.loss, losses.double().sum(), rtol=1e-14, atol=0)


def test_a_mean_is_multiplied_by_its_count_and_zero_over_zero_is_nothing() -> None:
    for count in (4, 4.0, torch.tensor(4)):
        assert from_mean(torch.tensor(2.5), count).loss == 10
    assert from_mean(torch.tensor(torch.nan), 0).loss == 0
    assert from_mean(torch.tensor(torch.nan), 2).loss.isnan()
