"""Noise levels: each verdict from typed-in numbers, each group's loss, what it is divided by, its gradient."""

import math

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._diffusion import Denoiser, levels
from truestep.lab.claims import diffusion_noise_levels
from truestep.lab.claims.diffusion_noise_levels import (
    GROUPS,
    OUTPUTS,
    RULES,
    gradient_norms,
    judge,
    losses,
    plot,
    references,
    train,
)


def numbers(**changed: float) -> list[Measurement]:
    usual: Measurement = {"real": 0.0, "mean": 2.5, "shuffled": 0.05}
    for output in OUTPUTS:
        for rule in RULES:
            key = f"{output}_{rule}"
            usual |= {f"{key}_start_spread": 100.0, f"{key}_end_spread": 2.0, f"{key}_distance": 0.1}
            usual |= {f"{key}_{curve}": [1.0] * GROUPS for curve in ("start", "end", "held_out")}
    return [usual | changed, usual | {name: value * 1.01 for name, value in changed.items()}]


BETTER = {f"{output}_unit_distance": 0.05 for output in OUTPUTS}
EVEN = {f"{output}_raw_start_spread": 5.0 for output in OUTPUTS}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        (BETTER, Verdict.SUPPORTED),
        ({"image_frozen_distance": 0.05}, Verdict.PARTLY),
        (BETTER | {"noise_raw_start_spread": 5.0}, Verdict.PARTLY),
        (BETTER | EVEN, Verdict.REFUTED),
        ({}, Verdict.REFUTED),  # all as near as plain: a gain is excluded
        ({f"{o}_{r}_distance": 0.2 for o in OUTPUTS for r in ("frozen", "unit")}, Verdict.REFUTED),
        (BETTER | {"noise_raw_distance": 1.0}, Verdict.INCONCLUSIVE),
    ],
)
def test_an_issue_and_its_mending_decide(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(numbers(**changed)).verdict is verdict


def test_an_uncertain_gain_is_inconclusive() -> None:
    first, second = numbers()
    measured = [first | {"image_unit_distance": 0.05}, second | {"image_unit_distance": 0.2}]
    assert judge(measured).verdict is Verdict.INCONCLUSIVE


def denoiser(image: bool) -> Denoiser:
    return Denoiser(image, torch.Generator().manual_seed(0), "cpu")


def test_each_group_has_the_loss_of_its_own_levels() -> None:
    model = denoiser(True)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)  # the image is always 0: the loss is signal / noise times the mean square
    x = torch.full((5, 64), 0.5)
    found = losses(model, x, 2000, torch.Generator().manual_seed(0))
    signal, noise = levels("cpu")
    expected = (signal / noise * 0.25).view(GROUPS, -1).mean(1)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)


def test_unit_divides_by_the_present_loss_and_frozen_by_the_first() -> None:
    first, second = torch.rand(2, GROUPS)
    assert torch.equal(references("raw", first, []), torch.ones(GROUPS))
    assert torch.equal(references("unit", second, []), second)
    seen = [first] * diffusion_noise_levels.FIRST
    torch.testing.assert_close(references("frozen", second, seen), first)


def test_gradient_norms_are_divided_as_the_losses_are() -> None:
    model, x = denoiser(True), torch.rand(20, 64)
    plain = gradient_norms(model, x, torch.ones(GROUPS), torch.Generator().manual_seed(0))
    halved = gradient_norms(model, x, torch.full((GROUPS,), 2.0), torch.Generator().manual_seed(0))
    assert plain[0] > 1000 * plain[-1]  # the signal-to-noise ratio
    assert halved == pytest.approx([norm / 2 for norm in plain], rel=1e-5)


def test_a_training_moves_the_net_the_same_way_again() -> None:
    x = torch.rand(50, 64, generator=torch.Generator().manual_seed(1))
    ends = []
    for _ in range(2):
        model = denoiser(False)
        train(model, x, "unit", 1e-3, 3, torch.Generator().manual_seed(0))
        ends.append(model.leave.weight.detach().clone())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], denoiser(False).leave.weight)


def test_the_logarithm_of_the_gain_is_kept() -> None:
    judgement = judge(numbers(**BETTER))
    assert judgement.intervals["noise_unit_log_gain"].mean == pytest.approx(math.log(0.5), abs=0.01)


def test_the_figure_has_a_place_for_each_output_under_each_rule() -> None:
    *_, right = plot(numbers()).axes
    assert [tick.get_text() for tick in right.get_xticklabels()] == [f"{o}\n{r}" for o in OUTPUTS for r in RULES]
