"""The curvature a net starts with: the share along the mean in closed form, and the largest eigenvalue."""

import pytest
import torch

from truestep.lab._covariate_shift import Stack, images
from truestep.lab._shift_at_start import largest_at_start, shift_at_start
from truestep.lab._variants import VARIANTS


def test_the_share_of_the_head_is_that_of_the_exact_ggn() -> None:
    x, _ = images(0)
    net = Stack("relu", VARIANTS["none"], 1, seed=0)
    trace = 1 - net(x)[0].detach().softmax(1).square().sum(1)  # of the softmax's Hessian, by sample
    a = torch.cat([net.inputs[-1][0], torch.ones(len(x), 1, dtype=torch.float64)], 1).detach()
    mean = a.mean(0)
    exact = ((a @ mean).square() * trace).sum() / (mean @ mean) / (a.square().sum(1) * trace).sum()
    assert shift_at_start("relu", "none", 0, draws=400).head == pytest.approx(float(exact), rel=0.05)


def test_the_statistics_path_takes_the_share_and_leaves_the_shift() -> None:
    none, bn, direct = (shift_at_start("tanh + 1", variant, 0) for variant in ("none", "BN", "BN direct"))
    assert bn.nu == direct.nu > 10
    assert bn.hidden < 0.15 < 0.6 < direct.hidden
    assert none.hidden > 0.6


def test_the_statistics_path_takes_the_outlier() -> None:
    bn, direct = (largest_at_start("tanh + 1", variant, 0) for variant in ("BN", "BN direct"))
    assert direct > 3 * bn
