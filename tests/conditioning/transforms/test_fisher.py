"""The Fisher entries of single units against per-sample gradients and the softmax's own curvature, in float64."""

import pytest
import torch
from tests.cases import assert_additive
from torch import Tensor
from torch.nn.functional import cross_entropy

from truestep.conditioning.transforms._fisher import exact_deltas, sampled_deltas, unit_fisher


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def softmax_curvature(logits: Tensor) -> Tensor:
    """Hessian of the summed cross-entropy, for each sample; it depends on no label."""
    labels = torch.zeros(len(logits), dtype=torch.long)
    dense = torch.autograd.functional.hessian(lambda z: cross_entropy(z, labels, reduction="sum"), logits)
    return torch.stack([dense[i, :, i] for i in range(len(logits))])


def test_the_entries_are_those_of_each_units_matrix_of_per_sample_gradients() -> None:
    a, delta = rows(9, 3), rows(9, 2)
    fisher = unit_fisher(a, delta, 9)
    for unit in range(2):
        gradients = delta[:, unit, None] * torch.cat([torch.ones(9, 1), a], dim=1)  # of the bias, then of the weights
        dense = gradients.T @ gradients
        torch.testing.assert_close(fisher.bias[unit], dense[0, 0], rtol=1e-14, atol=0)
        torch.testing.assert_close(fisher.cross[unit], dense[0, 1:], rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(fisher.weight[unit], dense.diagonal()[1:], rtol=1e-14, atol=0)


def test_parts_of_a_batch_add_up() -> None:
    a, delta = rows(12, 5), rows(12, 4)
    parts = [unit_fisher(a[cut], delta[cut], len(a[cut])) for cut in (slice(1), slice(1, 7), slice(7, 12))]
    assert_additive(unit_fisher(a, delta, 12), parts)


def test_the_groups_of_a_convolution_lie_one_behind_another() -> None:
    a, delta = rows(2, 9, 3), rows(2, 9, 4)
    whole = unit_fisher(a, delta, 9)
    for group in range(2):
        part, units = unit_fisher(a[group], delta[group], 9), slice(4 * group, 4 * group + 4)
        for name in ("bias", "cross", "weight"):
            torch.testing.assert_close(getattr(whole, name)[units], getattr(part, name), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_narrow_numbers_do_not_overflow(dtype: torch.dtype) -> None:
    fisher = unit_fisher(torch.full((3, 1), 1e3, dtype=dtype), torch.full((3, 1), 1e3, dtype=dtype), 3)
    assert fisher.weight.dtype == torch.float32
    torch.testing.assert_close(fisher.weight, torch.full((1, 1), 3e12), rtol=0.01, atol=0)


def test_exact_deltas_add_up_to_the_softmaxs_curvature() -> None:
    logits = rows(4, 3)
    squares = sum(delta[:, :, None] * delta[:, None, :] for delta in exact_deltas(logits))
    torch.testing.assert_close(squares, softmax_curvature(logits), rtol=1e-13, atol=1e-15)


def test_sampled_deltas_are_the_gradient_of_the_summed_cross_entropy_at_some_label() -> None:
    logits = rows(50, 3).requires_grad_()
    delta = sampled_deltas(logits, torch.Generator().manual_seed(1))
    labels = delta.argmin(1)  # the only negative entry
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), logits)
    torch.testing.assert_close(delta, expected, rtol=1e-13, atol=1e-15)


def test_labels_are_drawn_from_the_model_itself() -> None:
    p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    delta = sampled_deltas(p.log().expand(20000, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(p - delta.mean(0), p, rtol=0, atol=0.012)  # 4 standard deviations
    torch.testing.assert_close(delta.T @ delta / 20000, p.diag() - p.outer(p), rtol=0, atol=0.01)


def test_equal_generators_draw_equal_labels_and_the_global_one_is_left_alone() -> None:
    logits, before = rows(30, 4), torch.get_rng_state()
    first, again = (sampled_deltas(logits, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_leading_dimensions_are_samples() -> None:
    logits = rows(2, 5, 3)
    flat = logits.reshape(10, 3)
    mine, theirs = (sampled_deltas(z, torch.Generator().manual_seed(0)) for z in (logits, flat))
    assert torch.equal(mine, theirs.view(2, 5, 3))
    for delta, other in zip(exact_deltas(logits), exact_deltas(flat), strict=True):
        assert torch.equal(delta, other.view(2, 5, 3))
