"""The stationary moments of the random walk: torch's own optimizers on pure noise, and the formulas' limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp, pi, sqrt

import pytest
import torch
from tests.invariance.random_walk import ELEMENTS, SGDW, SIZE, Lion, mean_and_error, rule_of, start, walk
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from truestep.invariance._equilibrium import equilibrium
from truestep.invariance._walk import angle_of, coupled, decoupled, lion

Build = Callable[[list[Tensor]], Optimizer]
MU = 0.9
NESTEROV = sqrt((1 - MU**2) * ((1 + MU) ** 2 + MU**4 / (1 - MU**2)))  # over heavy-ball momentum's angle: 1.158
MOMENTUM = {"lr": 0.02, "momentum": MU, "weight_decay": 0.05}
DECOUPLED = {**MOMENTUM, "lr": 0.1}
# The optimizer, steps to forget the start, and the table's angle, to first order in lr times weight decay.
TABLE: dict[str, tuple[Build, int, float]] = {
    "SGD": (partial(SGD, lr=0.1, weight_decay=0.05), 100, sqrt(2 * 0.005)),
    "SGD, momentum": (partial(SGD, **MOMENTUM), 120, sqrt(2 * 0.001 / (1 + MU))),
    "SGD, Nesterov": (partial(SGD, **MOMENTUM, nesterov=True), 120, NESTEROV * sqrt(2 * 0.001 / (1 + MU))),
    "SGDW, momentum": (partial(SGDW, **DECOUPLED), 200, sqrt(2 * 0.005 * (1 - MU) / (1 + MU))),
    "AdamW": (partial(AdamW, lr=0.01, weight_decay=0.5), 500, sqrt(2 * 0.005 * (1 - 0.9) / (1 + 0.9))),
}
BESIDE_THE_TABLE: dict[str, tuple[Build, int]] = {
    "SGD, dampening": (partial(SGD, lr=0.1, momentum=MU, dampening=0.5, weight_decay=0.02), 120),
    "SGD, Nesterov 0.5": (partial(SGD, lr=0.02, momentum=0.5, weight_decay=0.2, nesterov=True), 60),
    "SGDW, Nesterov": (partial(SGDW, **DECOUPLED, nesterov=True), 200),
    "Adam with L2": (partial(Adam, lr=0.01, weight_decay=0.05), 500),
}


def measured(build: Build, wait: int, steps: int = 400) -> tuple[float, float, float]:
    """Angle and norm of the walk over those of the formula, started at its norm; the larger standard error."""
    (group,) = equilibrium(build([torch.zeros(2)])).groups
    group = group.measured(SIZE, ELEMENTS)
    power = 4 if group.rule.family == "sgd" else 2  # the moment of the norm that the formula is for
    cosines, squares = (rows[wait:] for rows in walk(start(float(group.norm)), build, wait + steps))
    turned, turned_error = mean_and_error(cosines.clamp(max=1.0).acos().square().mean(0))
    grown, grown_error = mean_and_error((squares ** (power / 2)).mean(0))
    error = max(turned_error / turned / 2, grown_error / grown / power)
    return sqrt(turned) / float(group.angle), grown ** (1 / power) / float(group.norm), error


@pytest.mark.parametrize("name", TABLE)
def test_angle_and_norm_of_the_walk_are_those_of_the_formula_and_the_angle_that_of_the_table(name: str) -> None:
    build, wait, first_order = TABLE[name]
    angle, norm, error = measured(build, wait)
    (group,) = equilibrium(build([torch.zeros(2)])).groups
    assert error < 0.0015  # so that the two bounds below are more than three of them wide
    assert angle == pytest.approx(1, abs=0.005)
    assert norm == pytest.approx(1, abs=0.005)
    assert angle * float(group.angle) == pytest.approx(first_order, rel=0.02)


@pytest.mark.parametrize("name", BESIDE_THE_TABLE)
def test_angle_and_norm_of_the_walk_are_those_of_the_formula(name: str) -> None:
    angle, norm, error = measured(*BESIDE_THE_TABLE[name])
    assert error < 0.0015
    assert angle == pytest.approx(1, abs=0.005)
    assert norm == pytest.approx(1, abs=0.005)


def test_lion_by_the_arcsine_law() -> None:
    build = partial(Lion, lr=0.01, betas=(0.9, 0.99), weight_decay=0.5)
    angle, norm, error = measured(build, 500, 500)
    assert error < 0.004
    assert angle == pytest.approx(1, abs=0.015)
    assert norm == pytest.approx(1, abs=0.015)
    (group,) = equilibrium(build([torch.zeros(2)])).groups
    published = sqrt(pi * 0.005 * (0.1**2 + 0.9**2 * 0.01 / 1.99))  # leaves out that decay and second average compete
    assert angle * float(group.angle) > 1.1 * published


def test_lion_at_the_setting_where_a_walk_was_measured_before() -> None:
    x, beta1, beta2 = torch.tensor([1e-3, 0.9, 0.99], dtype=torch.float64)
    published = pi * 1e-3 * (0.1**2 + 0.9**2 * 0.01 / 1.99)
    bend, kick = lion(x, beta1, beta2)  # 6000 steps of 32 units with d = 256 gave 1.028 and 0.962 of the published form
    assert float(angle_of(bend)) / sqrt(published) == pytest.approx(1.028, abs=0.002)
    assert sqrt(published / float(kick)) == pytest.approx(0.962, abs=0.002)


def test_lion_tends_to_its_published_form_where_decay_is_slower_than_its_averages() -> None:
    x, beta1, beta2 = torch.tensor([1e-6, 0.9, 0.99], dtype=torch.float64)
    bracket = 0.1**2 + 0.9**2 * 0.01 / 1.99
    bend, kick = lion(x, beta1, beta2)
    assert float(angle_of(bend)) == pytest.approx(sqrt(pi * 1e-6 * bracket), rel=0.01)
    assert float(kick) == pytest.approx(pi * 1e-6 * bracket, rel=0.02)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_momentum_coupled_and_decoupled_decay_are_one(nesterov: bool) -> None:
    x, mu = torch.tensor([[1e-9, 1e-3, 0.3], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for found in (coupled(x, mu, nesterov=nesterov), decoupled(x, mu, nesterov=nesterov)):
        torch.testing.assert_close(found, (x, x * (2 - x)), rtol=1e-14, atol=0)


def test_plain_sgd_turns_by_the_arccosine_of_one_minus_lr_times_decay() -> None:
    assert float(angle_of(torch.tensor(0.3, dtype=torch.float64))) == pytest.approx(torch.tensor(0.7).acos().item())
    assert float(angle_of(torch.tensor(1e-18, dtype=torch.float64))) == pytest.approx(sqrt(2e-18), rel=1e-14)


def fixed_point(x: float, mu: float, nesterov: bool, is_coupled: bool) -> tuple[float, float]:
    """Bend and kick from the recursion of |w|², <w, v>, |v|² itself, at lr 1, by carrying 3×3 moments along."""
    # One gradient of squared norm y is added to (w, v) along a direction of its own: state' = A state + b g.
    lam, own = (x, 1.0) if is_coupled else (0.0, 1 - x)
    v_row = [lam, mu]  # v' = mu v + lam w + g
    move, fresh = ([lam + mu * v_row[0], mu * v_row[1]], 1 + mu) if nesterov else (v_row, 1.0)
    A = torch.tensor([[own - move[0], -move[1]], v_row], dtype=torch.float64)
    b = torch.tensor([[-fresh], [1.0]], dtype=torch.float64)
    second = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(A, A), torch.kron(b, b)[:, 0])
    r = second[0]
    return float(1 - (A[0, 0] * r + A[0, 1] * second[1]) / r), float(1 / r)


@pytest.mark.parametrize("is_coupled", [True, False])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("x", [1e-5, 1e-2, 0.5])
def test_closed_forms_are_the_fixed_point_of_the_moments(x: float, mu: float, nesterov: bool, is_coupled: bool) -> None:
    formula = coupled if is_coupled else decoupled
    bend, kick = formula(*torch.tensor([x, mu], dtype=torch.float64), nesterov=nesterov)
    expected = fixed_point(x, mu, nesterov, is_coupled)
    assert (float(bend), float(kick)) == pytest.approx(expected, rel=1e-8)


def test_nesterov_turns_by_its_own_factor_and_has_the_norm_of_heavy_ball() -> None:
    x, mu = torch.tensor([1e-7, MU], dtype=torch.float64)
    (own, kick), (heavy, same) = coupled(x, mu, nesterov=True), coupled(x, mu)
    assert float((own / heavy).sqrt()) == pytest.approx(NESTEROV, rel=1e-5)
    assert pytest.approx(1.158, abs=5e-4) == NESTEROV
    assert float(kick) == pytest.approx(float(same), rel=1e-5)


@pytest.mark.parametrize("far", [2.0, 0.5])
def test_the_fourth_power_of_the_norm_under_sgd_relaxes_at_four_times_lr_times_decay(far: float) -> None:
    build = partial(SGD, lr=0.05, weight_decay=0.05)
    (group,) = equilibrium(build([torch.zeros(2)])).groups
    group = group.measured(SIZE)
    _, squares = walk(start(far * float(group.norm)), build, 200)
    fourth, end = squares.square().mean(1), float(group.norm) ** 4
    for steps in (50, 100, 200):
        expected = group.norm_after(far * float(group.norm), steps)
        assert float(fourth[steps - 1]) ** 0.25 == pytest.approx(float(expected), rel=0.005)
    left = (fourth[[0, 99]] - end).abs().log()
    assert float(left[0] - left[1]) / 99 == pytest.approx(4 * 0.05 * 0.05, rel=0.02)


def test_the_square_of_the_norm_under_adamw_relaxes_at_twice_lr_times_decay() -> None:
    (group,) = equilibrium(AdamW([torch.zeros(2)], lr=1e-3, weight_decay=0.5)).groups
    group = group.measured(numel=ELEMENTS)
    for far in (0.25, 4.0):
        squared = (far * float(group.norm)) ** 2
        for _ in range(700):  # decay, and a step that is worth d elements of lr, in a random direction
            squared = (1 - 0.0005) ** 2 * squared + 1e-6 * ELEMENTS
        expected = group.norm_after(far * float(group.norm), 700)
        assert sqrt(squared) == pytest.approx(float(expected), rel=3e-3)  # the walk has an end of its own


def test_the_norm_under_adam_with_l2_relaxes_at_three_times_its_rate_close_to_equilibrium() -> None:
    (group,) = equilibrium(Adam([torch.zeros(2)], lr=1e-3, weight_decay=0.1)).groups
    group = group.measured(SIZE, ELEMENTS)
    squared = end = float(group.norm) ** 2
    squared *= 1.01
    steps = round(float(group.norm_time))
    for _ in range(steps):  # the decay is divided by the size of an element of the gradient, sqrt(G / d |w|²)
        squared += 1e-6 * ELEMENTS - 2 * 1e-4 * squared * sqrt(squared * ELEMENTS / SIZE)
    assert (squared - end) / (0.01 * end) == pytest.approx(exp(-1), rel=0.01)
    assert sqrt(squared) == pytest.approx(float(group.norm_after(sqrt(1.01 * end), steps)), rel=1e-4)


def test_rules_are_read_from_the_walks_own_optimizers() -> None:
    assert rule_of(TABLE["SGDW, momentum"][0]).decoupled
    assert not rule_of(TABLE["SGD, momentum"][0]).decoupled
