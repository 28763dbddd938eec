"""The linear rule under SGD: what is told, and that its arms are what they are called."""

import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._lr_rules import FACTORS, POWERS, TUNED_FACTORS
from truestep.lab.claims.linear_lr_sgd import CLAIM, SGD, judge, plot


def typed_in() -> list[Measurement]:
    usual: Measurement = {"matching_power": 1.0, "best_slope": 0.15}
    for name, gap in zip(POWERS, (2.0, 1.0, 0.0), strict=True):
        usual |= {f"{name}_gap_{k}": gap for k in FACTORS} | {f"{name}_regret_{k}": 0.0 for k in TUNED_FACTORS}
    usual |= {f"best_{k}": 0.5 for k in (1, *TUNED_FACTORS)} | {"linear_regret_4": 3.0}
    return [usual, usual]


def test_a_rule_that_keeps_the_small_lr_s_curve_but_not_the_tuned_one_holds_in_part() -> None:
    judgement = judge(typed_in())
    assert judgement.verdict is Verdict.PARTLY
    assert "1.00 times the base's with the linear rule, 2.7 with sqrt, 7.4 with none" in judgement.reason
    assert "the linear rule's loss is 20.1 times the best, sqrt's 1," in judgement.reason


def test_it_is_plain_sgd() -> None:
    optimizer = SGD.build(0.1)([torch.zeros(1)])
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.1, 0, 0)


def test_the_figure_leaves_out_adam_s_rule() -> None:
    left, _ = plot(typed_in()).axes
    assert "sde" not in [text.get_text() for text in left.get_legend().get_texts()]


def test_the_threshold_is_written_for_this_optimizer() -> None:
    assert CLAIM.threshold.startswith("SGD, lr 0.02 at batch 8, digits, batch 8 to 256")
