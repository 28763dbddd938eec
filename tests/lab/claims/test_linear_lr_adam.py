"""The linear rule under Adam: what is told, the square-root rule with betas and eps, and the idle sum."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._digits import digits
from truestep.lab._lr_rules import FACTORS, POWERS, TUNED_FACTORS
from truestep.lab.claims.linear_lr_adam import CLAIM, judge, plot, sde, sum_against_mean


def typed_in() -> list[Measurement]:
    usual: Measurement = {"matching_power": 0.7, "best_slope": 0.4, "sum_against_mean": 3e-4}
    for name, gap in {"const": 1.4, "sqrt": 0.5, "linear": -0.7, "sde": 0.5}.items():
        usual |= {f"{name}_gap_{k}": gap for k in FACTORS}
    usual |= {f"{name}_regret_{k}": 0.0 for name in POWERS for k in TUNED_FACTORS}
    usual |= {f"best_{k}": 0.01 for k in (1, *TUNED_FACTORS)}
    return [usual, usual]


def test_a_rule_that_oversteps_is_refuted_though_its_loss_is_lower() -> None:
    judgement = judge(typed_in())
    assert judgement.verdict is Verdict.REFUTED
    assert "0.50 times the base's with the linear rule (it oversteps), 1.65 with sqrt" in judgement.reason
    assert "differ by 0.03 % of the way" in judgement.reason


@pytest.mark.parametrize(("k", "beta1", "beta2"), [(4, 0.6, 0.996), (32, 0.0, 0.968)])
def test_the_square_root_rule_scales_lr_betas_and_eps(k: int, beta1: float, beta2: float) -> None:
    setting = sde(1e-3, k)([torch.zeros(1)]).defaults
    assert setting["lr"] == pytest.approx(1e-3 * k**0.5)
    assert setting["betas"] == pytest.approx((beta1, beta2))
    assert setting["eps"] == pytest.approx(1e-8 / k**0.5)


def test_the_square_root_rule_at_the_base_batch_changes_nothing() -> None:
    setting = sde(1e-3, 1)([torch.zeros(1)]).defaults
    assert (setting["lr"], setting["betas"], setting["eps"]) == (1e-3, pytest.approx((0.9, 0.999)), 1e-8)


def test_under_adam_the_sum_takes_the_mean_s_way() -> None:
    apart = sum_against_mean(digits(), 0, 64, num_steps=10)
    assert 0 < apart < 1e-2  # eps is all that tells them apart


def test_the_figure_shows_adam_s_own_rule_too() -> None:
    left, _ = plot(typed_in()).axes
    assert "sde" in [text.get_text() for text in left.get_legend().get_texts()]


def test_the_threshold_is_written_for_this_optimizer() -> None:
    assert CLAIM.threshold.startswith("Adam, lr 0.0003 at batch 8")
