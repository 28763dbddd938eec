"""The sentences, which are what is read of a speed test."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from truestep.compare.speed import PathTest, SpeedTest
from truestep.compare.speed._speed_test import percent, without_lr

NONE = torch.ones(2, 2, dtype=torch.float64)
FALLING = torch.tensor([[1.0, 0.1], [1.0, 0.1]], dtype=torch.float64)
BELIEF = SpeedTest(
    problem="digits-mlp",
    a="Adam(lr=0.001)",
    b="AdaBelief(lr=0.001)",
    lr_a=1e-3,
    lr_b=1e-3,
    seeds=8,
    steps=(150, 300),
    multiplier=1.567,
    interval=(1.549, 1.585),
    lag=0.0,
    largest_lag=0.0,
    residual=0.030,
    residual_interval=(0.027, 0.033),
    residual_at_one=0.51,
    floor=0.015,
    threshold=0.05,
    explained=0.997,
    early=-0.01,
    late=0.02,
    path=None,
    verdict="SPED-UP",
    multipliers=(0.1, 1.0, 10.0),
    losses_a=torch.ones(3, 2, 2, dtype=torch.float64),
    losses_b=FALLING,
    losses_b_again=NONE,
    fitted=NONE,
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "AdaBelief at lr 0.001 is Adam at lr 0.00157 to within 3 % of the loss"),
        (
            {"lag": 7.6, "b": "SGD(lr=0.001, momentum=0.9)", "a": "SGD(lr=0.001)"},
            "SGD(momentum=0.9) at lr 0.001 is SGD at lr 0.00157, 8 steps behind, to within 3 % of the loss",
        ),
        ({"lag": -1.2}, "AdaBelief at lr 0.001 is Adam at lr 0.00157, 1 step ahead, to within 3 % of the loss"),
        (
            {"verdict": "SAME", "residual_at_one": 0.02},
            "AdaBelief at lr 0.001 is Adam at lr 0.001 to within 2 % of the loss",
        ),
        (
            {"verdict": "DIFFERENT", "residual": 0.2},
            "AdaBelief at lr 0.001 is not Adam at another lr: "
            "at the nearest, 0.00157, 22 % of the loss stay between them",
        ),
        (
            {"verdict": "UNDECIDED", "residual": 0.05, "residual_interval": (0.03, 0.07)},
            "8 seeds do not tell whether AdaBelief at lr 0.001 is Adam at lr 0.00157: "
            "5 % [3 %, 7 %] of the loss stay between them, 5 % would count as none",
        ),
        (
            {"path": PathTest(0.3, 0.1, 0.03)},
            "AdaBelief at lr 0.001 is Adam at lr 0.00157 to within 3 % of the loss, on a path 10 % of its length away",
        ),
        (
            {"path": PathTest(0.3, 0.1, 0.06)},  # two copies of B are as far apart, nearly
            "AdaBelief at lr 0.001 is Adam at lr 0.00157 to within 3 % of the loss",
        ),
        (
            {"verdict": "UNDECIDED", "moved": 0.08},
            "AdaBelief at lr 0.001 changes the loss by 8 % in 300 steps: "
            "too little to tell it from Adam at many lrs; take more steps",
        ),
        (
            {"verdict": "UNBOUNDED", "multiplier": 10.0},
            "no lr of Adam is nearest to AdaBelief at lr 0.001: "
            "of 0.0001 to 0.01, and where it trains, the best is at the end, 0.01",
        ),
    ],
)
def test_the_sentence_says_what_was_found(changes: dict[str, Any], sentence: str) -> None:
    assert replace(BELIEF, **changes).sentence == sentence


def test_the_table_has_every_number_with_its_unit() -> None:
    table = str(replace(BELIEF, path=PathTest(0.3, 0.01, 0.02), lag=7.6, largest_lag=9.0))
    assert table.splitlines()[1:] == [
        "problem        digits-mlp, 300 steps, 8 seeds",
        "multiplier     1.57 [1.55, 1.58]",
        "lag            7.6 steps (sought up to 9)",
        "residual       0.030 [0.027, 0.033] nats",
        "at A's own lr  0.510 nats",
        "floor          0.015 nats; 0.050 counts as equal",
        "signed         -0.010 nats in the first half, +0.020 in the second",
        "explained      99.7%",
        "path           0.01 of B's length (0.3 at A's own lr, floor 0.02)",
    ]
    assert "nothing to explain" in str(replace(BELIEF, explained=math.nan))
    assert "not asked for" in str(BELIEF)


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("Adam", "Adam"),
        ("Adam(lr=0.001)", "Adam"),
        ("Adam(lr=1e-05, eps=1e-16)", "Adam(eps=1e-16)"),
        ("SGD(momentum=0.9, lr=0.1)", "SGD(momentum=0.9)"),
        ("SGD(momentum=0.9, lr=0.1, nesterov=True)", "SGD(momentum=0.9, nesterov=True)"),
        ("Some(betas=(0.9, 0.99), base_lr=1)", "Some(betas=(0.9, 0.99), base_lr=1)"),
    ],
)
def test_a_name_without_its_lr(described: str, name: str) -> None:
    assert without_lr(described) == name


def test_nats_are_told_as_shares_of_the_loss() -> None:
    assert [percent(math.log(1 + x)) for x in (0.0, 0.004, 0.03, 0.5, 9.5)] == [
        "0 %",
        "0.4 %",
        "3 %",
        "50 %",
        "more than 900 %",
    ]
    assert percent(math.inf) == "more than 900 %"
