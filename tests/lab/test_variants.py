"""What the nets of the class project differ in."""

from dataclasses import asdict

import torch

from truestep.lab._variants import ACTIVATIONS, VARIANTS


def test_a_knockout_changes_one_thing() -> None:
    pairs = [("none", "none + ICS"), ("BN", "BN + ICS"), ("BN", "BN direct"), ("BC", "BC direct"), ("BN", "BN after")]
    pairs += [("BN", "BN + moved"), ("BN", "BN + noise"), ("none", "standardizing"), ("BC", "BN")]
    for one, other in pairs:
        ours, theirs = asdict(VARIANTS[one]), asdict(VARIANTS[other])
        assert sum(ours[key] != theirs[key] for key in ours) == 1
    assert len(set(VARIANTS.values())) == len(VARIANTS)


def test_tanh_is_a_logistic_recoded() -> None:
    z = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(ACTIVATIONS["tanh"](z), 2 * ACTIVATIONS["logistic"](2 * z) - 1)
    torch.testing.assert_close(ACTIVATIONS["tanh + 1"](z), 2 * ACTIVATIONS["logistic"](2 * z))
    torch.testing.assert_close(ACTIVATIONS["logistic - 1/2"](z), -ACTIVATIONS["logistic - 1/2"](-z))
