"""What was asked is read from the parameter groups, whatever the rule calls a setting and however it holds it."""

from math import isnan, nan
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from truestep.core._settings import asked_of, group_settings


def same(found: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    return all(a == b or (isnan(a) and isnan(b)) for a, b in zip(found, expected, strict=True))


def group(rule: type[torch.optim.Optimizer], **settings: Any) -> dict[str, Any]:
    return rule([Parameter(torch.ones(2, 2))], **settings).param_groups[0]


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, (0.1, 0.0, 0.9, nan, nan, nan)),
        (torch.optim.AdamW, {"lr": 0.2, "betas": (0.8, 0.95)}, (0.2, 0.01, nan, 0.8, 0.95, 1e-8)),
        (torch.optim.Muon, {"lr": 0.3}, (0.3, 0.1, 0.95, nan, nan, 1e-7)),
        (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.5}, (0.1, 0.0, 0.5, nan, nan, 1e-8)),
        (torch.optim.LBFGS, {"lr": 1.0}, (1.0, nan, nan, nan, nan, nan)),
        (torch.optim.Adafactor, {"lr": 0.1}, (0.1, 0.0, nan, nan, nan, nan)),  # its eps is a pair
    ],
)
def test_each_rule_s_settings(rule: Any, settings: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert same(group_settings(group(rule, **settings)), expected)


def test_a_tensor_lr_is_a_number() -> None:
    assert group_settings(group(torch.optim.Adam, lr=torch.tensor(0.25)))[0] == 0.25


@pytest.mark.parametrize("odd", [None, True, "auto", torch.ones(2), (1, 2), 1j])
def test_what_is_no_single_number_is_nan(odd: Any) -> None:
    assert isnan(group_settings({"lr": odd})[0])


@pytest.mark.parametrize(
    ("betas", "expected"),
    [((0.9,), (0.9, nan)), ([0.9, 0.99, 0.999], (0.9, 0.99)), ((), (nan, nan)), ("ab", (nan, nan))],
)
def test_one_beta_three_or_none(betas: Any, expected: tuple[float, float]) -> None:
    assert same(group_settings({"betas": betas})[3:5], expected)


def test_every_block_has_the_settings_of_its_own_group() -> None:
    asked = asked_of([{"lr": 1.0}, {"lr": 2.0, "weight_decay": 0.5}], [1, 0, 1])
    assert asked.lr.tolist() == [2.0, 1.0, 2.0]
    assert asked.weight_decay.nan_to_num(-1).tolist() == [0.5, -1.0, 0.5]
    assert asked.lr.dtype == torch.float64


def test_no_blocks_were_asked_nothing() -> None:
    assert asked_of([{"lr": 1.0}], []).lr.shape == (0,)
