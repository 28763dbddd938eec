"""GradNorm's closed form is the double backward's, its solution has the norms asked for, and no weight dies."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multitask.seen import on_meta, seen
from torch import Tensor

from truestep.multitask._gradnorm import GradNorm, gradnorm_gradient, gradnorm_weights

SOLVES = ("direct", "sign", "gradient")
ALPHAS = (0, 0.12, 1.5, 3)
powers = st.lists(st.floats(-10, 10), min_size=3, max_size=3)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(alpha: float, solve: Any, tasks: int = 3, **settings: float) -> GradNorm:
    rule = GradNorm(alpha, solve, **settings)
    rule.start(tuple("abcdefgh"[:tasks]))
    return rule


def positive(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).exp()


def double_backward(w: Tensor, ratios: Tensor, alpha: float, norms_of: Any) -> Tensor:
    """The paper's way: d/dw of sum |G_i - const target|, through the norms of the weighted losses' gradients."""
    w = w.clone().requires_grad_()
    weighted = norms_of(w)
    target = (weighted.mean() * (ratios / ratios.mean()) ** alpha).detach()
    return torch.autograd.grad((weighted - target).abs().sum(), w)[0]


def random_net(tasks: int) -> tuple[Any, Tensor]:
    """Norms at a shared last layer W of w_i L_i, as a function of w that can be differentiated; and those at w = 1."""
    x, *targets = torch.randn(tasks + 1, 8, 4, dtype=torch.float64).unbind()
    first, shared = torch.randn(2, 4, 4, dtype=torch.float64)
    shared.requires_grad_()
    heads, units = torch.randn(tasks, 4, 4, dtype=torch.float64), 10 ** torch.randn(tasks, dtype=torch.float64)
    z = torch.tanh(torch.tanh(x @ first) @ shared)
    losses = [unit * (z @ head - y).square().mean() for head, y, unit in zip(heads, targets, units, strict=True)]

    def norms_of(w: Tensor) -> Tensor:
        gradients = [
            torch.autograd.grad(w[i] * loss, shared, create_graph=True, retain_graph=True)[0]
            for i, loss in enumerate(losses)
        ]
        return torch.stack([g.norm() for g in gradients])

    return norms_of, norms_of(torch.ones(tasks, dtype=torch.float64)).detach()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_closed_form_is_the_double_backward(alpha: float) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        tasks = 2 + seed % 4
        norms_of, norms = random_net(tasks)
        w, ratios = positive(tasks), positive(tasks)
        expected = double_backward(w, ratios, alpha, norms_of)
        torch.testing.assert_close(gradnorm_gradient(norms, w, ratios, alpha), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@given(powers)
def test_at_the_direct_solution_the_norms_have_the_proportions_asked_for(alpha: float, exponents: list[float]) -> None:
    norms, ratios = 10.0 ** torch.tensor(exponents, dtype=torch.float64), row(0.2, 0.9, 0.4)
    w = gradnorm_weights(norms, ratios, alpha)
    level = w * norms / (ratios / 0.5) ** alpha
    torch.testing.assert_close(level, level[0].expand(3), rtol=1e-12, atol=0)
    assert float(w.sum()) == pytest.approx(3, rel=1e-14)


@pytest.mark.parametrize(("alpha", "stationary"), [(0, True), (1, True), (0.5, False), (1.5, False)])
def test_the_direct_solution_is_stationary_up_to_a_drift_of_the_sum(alpha: float, stationary: bool) -> None:
    norms, ratios = positive(4), positive(4)
    w = gradnorm_weights(norms, ratios, alpha)
    weighted = w * norms
    off = weighted / (weighted.mean() * (ratios / ratios.mean()) ** alpha) - 1
    torch.testing.assert_close(off, off[0].expand(4), rtol=1e-12, atol=1e-12)
    assert (abs(float(off[0])) < 1e-12) == stationary  # mean of r**alpha is 1, or is not


def test_the_weights_worked_out_by_hand() -> None:
    w = gradnorm_weights(row(1, 4), row(0.1, 0.3), 2)  # r = 1/2, 3/2: 1/4 and 9/16
    torch.testing.assert_close(w, row(8, 18) / 13, rtol=1e-15, atol=0)


def test_a_task_without_a_ratio_counts_as_average_and_is_in_no_mean() -> None:
    ratios = row(0.2, math.nan, 0.6)  # r = 1/2, 1, 3/2
    torch.testing.assert_close(gradnorm_weights(torch.ones(3), ratios, 1), row(0.5, 1, 1.5), rtol=1e-15, atol=0)
    found = gradnorm_gradient(torch.ones(3), row(0.5, 1.3, 1.5), ratios, 1)  # targets 1.1 r: .55, 1.1, 1.65
    assert found.tolist() == [-1, 1, -1]


def test_alpha_zero_makes_equal_norms_whatever_the_ratios() -> None:
    for ratios in (row(0, 0), row(math.nan, 1), row(math.inf, -1)):
        torch.testing.assert_close(gradnorm_weights(row(1, 3), ratios, 0), row(1.5, 0.5), rtol=1e-15, atol=0)
        assert gradnorm_gradient(row(1, 3), torch.ones(2), ratios, 0).tolist() == [-1, 3]


def test_single_precision_is_computed_in_double() -> None:
    norms, ratios = torch.tensor([1e-30, 1e30]), torch.tensor([0.5, 0.5])  # their product's square has no float32
    w = gradnorm_weights(norms, ratios, 1.5)
    torch.testing.assert_close(w * norms.double(), 2 * norms[:1].double().expand(2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("solve", SOLVES)
def test_the_slow_task_s_weight_rises(solve: str) -> None:
    rule = started(1.5, solve, tasks=2)  # equal norms; task a has kept a tenth of its loss, b all
    for _ in range(5):
        w = rule.weigh(seen(ratios=[0.1, 1], norms=[1, 1]))
    assert float(w[1]) > 1 > float(w[0])


def test_the_paper_s_rule_makes_the_known_five_steps() -> None:
    rule = started(1.5, "gradient", tasks=2, lr=0.01)  # a library with the sign wrong has (1.025, 0.975)
    for _ in range(5):
        w = rule.weigh(seen(ratios=[0.1, 1], norms=[1, 1]))
    torch.testing.assert_close(w, row(0.95, 1.05), rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.usefixtures("unchecked")
def test_the_gradient_solve_is_torch_s_adam_on_the_double_backward(alpha: float) -> None:
    rule, w = started(alpha, "gradient", tasks=4, lr=0.01), torch.ones(4, dtype=torch.float64)
    adam = torch.optim.Adam([w], lr=0.01, eps=0)
    for _ in range(60):
        norms, ratios = positive(4), positive(4)
        w.grad = double_backward(w, ratios, alpha, lambda w, norms=norms: w * norms)
        adam.step()
        w.data *= 4 / w.sum()
        torch.testing.assert_close(rule.weigh(seen(ratios=ratios, norms=norms)), w, rtol=1e-11, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.usefixtures("unchecked")
def test_the_sign_solve_gets_within_its_step_of_the_direct_one(alpha: float) -> None:
    rule, lr = started(alpha, "sign", lr=0.05), 0.05
    norms, ratios = row(1, 100, 3), row(0.3, 0.9, 0.6)
    for _ in range(300):
        w = rule.weigh(seen(ratios=ratios, norms=norms))
    off = (w / gradnorm_weights(norms, ratios, alpha)).log()
    assert float(off.max() - off.min()) < 4 * lr


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.usefixtures("unchecked")
def test_the_gradient_solve_gets_within_its_step_of_the_direct_one_for_alpha_zero_and_one(alpha: float) -> None:
    rule, lr = started(alpha, "gradient", lr=0.01), 0.01
    norms, ratios = row(1, 4, 2), row(0.5, 0.7, 0.6)
    for _ in range(300):
        w = rule.weigh(seen(ratios=ratios, norms=norms))
    assert float((w - gradnorm_weights(norms, ratios, alpha)).abs().max()) < 10 * lr


@pytest.mark.usefixtures("unchecked")
def test_the_paper_s_rule_stops_short_where_every_norm_is_below_its_target() -> None:
    norms, ratios = torch.ones(3).double(), row(0.7, 1.0, 1.3)  # r**3 = .34, 1, 2.2: their mean is 1.18
    stuck = row(0.33, 0.99, 1.68)  # not 0.29, 0.85, 1.86, yet each below its target
    assert gradnorm_gradient(norms, stuck, ratios, 3).tolist() == [-1, -1, -1]
    rule = started(3, "gradient", lr=0.01)
    for _ in range(500):
        w = rule.weigh(seen(ratios=ratios, norms=norms))
    assert float((w[2] / w[0]).log()) < 0.9 * 3 * math.log(1.3 / 0.7)


@pytest.mark.parametrize("alpha", [0, 1.5])
@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.usefixtures("unchecked")
def test_no_weight_reaches_zero_in_1000_steps_at_a_spread_of_1e4(solve: str, alpha: float) -> None:
    rule, spread = started(alpha, solve, tasks=5), row(1, 10, 100, 1e3, 1e4)
    for _ in range(1000):
        w = rule.weigh(seen(ratios=torch.rand(5) + 0.05, norms=spread * (0.5 + torch.rand(5))))
        assert float(w.min()) > 0
        assert float(w.sum()) == pytest.approx(5, rel=1e-9)


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.usefixtures("unchecked")
def test_a_task_far_above_its_target_stays_above_the_floor_and_comes_back(solve: str) -> None:
    rule = started(3, solve, tasks=2, lr=0.5) if solve != "direct" else started(3, solve, tasks=2)
    for _ in range(200):
        w = rule.weigh(seen(ratios=[1e-6, 1], norms=[1, 1]))
        assert float(w.min()) > 0
    for _ in range(200):
        w = rule.weigh(seen(ratios=[1, 1e-1], norms=[1, 1]))
    assert float(w[0]) > float(w[1])


@given(powers)
def test_the_unit_of_a_loss_changes_no_weighted_norm_of_the_direct_solve(exponents: list[float]) -> None:
    units = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
    rule, other = started(1.5, "direct"), started(1.5, "direct")
    for _ in range(4):
        norms, ratios = positive(3), positive(3)  # a ratio has no unit
        weighted = rule.weigh(seen(ratios=ratios, norms=norms)) * norms
        moved = other.weigh(seen(ratios=ratios, norms=norms * units)) * norms * units
        torch.testing.assert_close(moved / moved.sum(), weighted / weighted.sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("scale", [1e-10, 2.0**-30, 65536.0, 1e10])
def test_one_factor_on_all_losses_as_a_grad_scaler_s_changes_no_weight(solve: str, scale: float) -> None:
    rule, other = started(0.7, solve), started(0.7, solve)
    for _ in range(30):
        norms, ratios = positive(3), positive(3)
        expected = rule.weigh(seen(ratios=ratios, norms=norms))
        found = other.weigh(seen(ratios=ratios, norms=norms * scale))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("solve", ["sign", "gradient"])
def test_one_factor_on_the_weights_at_the_start_and_what_they_become_later_change_nothing(solve: str) -> None:
    rule, other = started(1, solve), started(1, solve)
    start = positive(3)
    for i in range(30):
        norms, ratios = positive(3), positive(3)
        expected = rule.weigh(seen(ratios=ratios, norms=norms, weights=start))
        theirs = 1024 * start if i == 0 else positive(3)
        assert other.weigh(seen(ratios=ratios, norms=norms, weights=theirs)).equal(expected)


@pytest.mark.parametrize("solve", ["sign", "gradient"])
@pytest.mark.usefixtures("unchecked")
def test_a_task_that_starts_with_no_weight_can_gain_some(solve: str) -> None:
    rule = started(0, solve, tasks=2, lr=0.1)
    for _ in range(300):
        w = rule.weigh(seen(norms=[1, 1], weights=[2, 0]))
    torch.testing.assert_close(w, torch.ones(2).double(), rtol=0.2, atol=0)


def test_a_running_average_of_log_norms_starts_with_the_first() -> None:
    rule = started(0, "direct", tasks=2, smoothing=0.75)
    rule.weigh(seen(norms=[1, 16]))
    w = rule.weigh(seen(norms=[16, 1]))  # averages 2 and 8
    torch.testing.assert_close(w, row(1.6, 0.4), rtol=1e-14, atol=0)


@pytest.mark.parametrize("junk", [math.nan, 7.0])  # 7: a task present whose gradient is zero has a ratio
@pytest.mark.parametrize("alpha", [0, 1.5])
@pytest.mark.parametrize("solve", SOLVES)
def test_a_task_that_is_away_changes_nothing_and_nothing_changes_it(solve: str, alpha: float, junk: float) -> None:
    rule, pair = started(alpha, solve), started(alpha, solve, tasks=2)
    full = {"ratios": [0.3, 0.5, 0.8], "norms": [2.0, 9.0, 1.0]}
    both = {name: [values[0], values[2]] for name, values in full.items()}
    rule.weigh(seen(**full, active=[True, False, True]))
    pair.weigh(seen(**both))
    before = {name: state[1].clone() for name, state in rule.state_dict().items()}
    away = {name: [values[0], junk, values[2]] for name, values in full.items()}
    for _ in range(20):
        found = rule.weigh(seen(**away, active=[True, False, True]))
        expected = pair.weigh(seen(**both))
        torch.testing.assert_close(found[[0, 2]], expected, rtol=1e-12, atol=0)
    after = {name: state[1] for name, state in rule.state_dict().items()}
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("solve", SOLVES)
def test_an_update_without_any_task_leaves_the_state(solve: str) -> None:
    rule = started(1, solve)
    rule.weigh(seen(ratios=positive(3), norms=positive(3)))
    before = copy.deepcopy(rule.state_dict())
    rule.weigh(seen(active=[False] * 3))
    torch.testing.assert_close(rule.state_dict(), before, rtol=0, atol=0)


def test_a_late_task_s_adam_counts_its_own_updates() -> None:
    rule = started(0, "gradient", tasks=3, lr=0.01)
    for _ in range(50):
        rule.weigh(seen(norms=[1, 1, math.nan], active=[True, True, False]))
    w = rule.weigh(seen(norms=[1, 1, 3]))  # the first gradient of each: a whole lr down for c, less up for a and b
    up = 0.01 * 0.1 / (1 - 0.9**51) / math.sqrt(0.001 / (1 - 0.999**51))
    torch.testing.assert_close(w, row(1 + up, 1 + up, 0.99) * 3 / (2.99 + 2 * up), rtol=1e-12, atol=0)


@pytest.mark.parametrize("solve", SOLVES)
def test_a_run_goes_on_bit_exactly_from_its_state(solve: str) -> None:
    rule = started(1.5, solve)
    for _ in range(7):
        rule.weigh(seen(ratios=positive(3), norms=positive(3)))
    copies = [started(1.5, solve), copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))]
    copies[0].load_state_dict(rule.state_dict())
    for _ in range(7):
        readings = seen(ratios=positive(3), norms=positive(3))
        expected = rule.weigh(readings)
        assert all(other.weigh(readings).equal(expected) for other in copies)


@pytest.mark.parametrize("solve", SOLVES)
def test_the_weights_handed_out_are_not_the_state(solve: str) -> None:
    rule, other = started(1.5, solve), started(1.5, solve)
    readings = seen(ratios=positive(3), norms=positive(3))
    rule.weigh(readings).zero_()
    other.weigh(readings)
    assert rule.weigh(readings).equal(other.weigh(readings))


@pytest.mark.parametrize("alpha", [0, 1.5])
@pytest.mark.parametrize("solve", SOLVES)
def test_nothing_is_read_on_the_host(solve: str, alpha: float) -> None:
    rule = started(alpha, solve).to("meta")
    assert rule.weigh(on_meta(seen(ratios=[1, 1, 1], norms=[1, 2, 3]))).is_meta


def test_only_alpha_zero_takes_losses_of_any_sign() -> None:
    assert (GradNorm(0).positive, GradNorm(0.12).positive) == (False, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, r"`alpha` must be finite and at least 0; found -0.1"),
        ({"alpha": math.inf}, r"`alpha` must be finite"),
        ({"alpha": math.nan}, r"`alpha` must be finite"),
        ({"solve": "newton"}, r"`solve` must be one of direct, sign, gradient; found 'newton'"),
        ({"smoothing": 1.0}, r"`smoothing` must be at least 0 and below 1"),
        ({"solve": "sign", "lr": 0.0}, r"`lr` must be positive and finite; found 0.0"),
        ({"solve": "sign", "lr": math.inf}, r"`lr` must be positive and finite"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_setting_without_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradNorm(**({"alpha": 1.0} | settings))


@pytest.mark.parametrize(
    ("solve", "settings", "name"),
    [("direct", {"lr": 0.1}, "lr"), ("sign", {"smoothing": 0.5}, "smoothing"), ("gradient", {"smoothing": 0}, "smoo")],
)
def test_a_setting_that_a_solve_does_not_use_is_not_passed_over_in_silence(
    solve: Any, settings: Any, name: str
) -> None:
    with pytest.warns(RuntimeWarning, match=f"`{name}.* is not used by GradNorm"):
        GradNorm(1, solve, **settings)
