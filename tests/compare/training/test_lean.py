"""The cross-entropy of fewer passes is torch's."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from truestep.compare.training._lean import LeanCrossEntropy


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e30])
def test_value_and_gradient_are_torchs(scale: float) -> None:
    logits = (scale * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 3, -100, 1, 2, 2])
    with LeanCrossEntropy():
        lean = cross_entropy(logits, labels)
    plain = cross_entropy(logits, labels)
    torch.testing.assert_close(lean, plain, rtol=1e-13, atol=1e-15)
    (ours,), (theirs,) = (torch.autograd.grad(x, logits) for x in (lean, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "settings",
    [{"reduction": "sum"}, {"label_smoothing": 0.1}, {"ignore_index": 1}, {"weight": torch.tensor([1.0, 2.0, 3.0])}],
)
def test_other_settings_are_torchs_own_bit_by_bit(settings: dict) -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    with LeanCrossEntropy():
        lean = cross_entropy(logits, labels, **settings)
    assert torch.equal(lean, cross_entropy(logits, labels, **settings))


def test_shares_of_classes_are_torchs_own() -> None:
    logits, shares = torch.randn(5, 3), torch.rand(5, 3)
    with LeanCrossEntropy():
        lean = cross_entropy(logits, shares)
    assert torch.equal(lean, cross_entropy(logits, shares))
