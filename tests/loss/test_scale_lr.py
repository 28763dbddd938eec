"""A learning rate at another batch size: the rules compose, and each holds where its law is exact."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from truestep.loss._scale_lr import AdamScale, scale_adam, scale_lr

SIZES = st.integers(1, 4096)


@given(lr=st.floats(1e-8, 1e2), a=SIZES, b=SIZES, c=SIZES, rule=st.sampled_from(["linear", "sqrt"]))
def test_two_changes_of_batch_size_are_one_and_the_way_back_undoes_it(
    lr: float, a: int, b: int, c: int, rule: str
) -> None:
    there = scale_lr(lr, b, a, rule)
    assert scale_lr(there, c, b, rule) == pytest.approx(scale_lr(lr, c, a, rule), rel=1e-12)
    assert scale_lr(there, a, b, rule) == pytest.approx(lr, rel=1e-12)


def test_the_hand_worked_rules() -> None:
    assert scale_lr(0.1, 1024, 256) == 0.4
    assert scale_lr(0.1, 1024, 256, "sqrt") == 0.2
    assert scale_lr(0.4, 256, 1024) == 0.1
    scaled = scale_adam(1e-3, (0.9, 0.96), 1e-6, 64, 16)
    assert (scaled.lr, scaled.eps) == (2e-3, 5e-7)
    assert scaled.betas == pytest.approx((0.6, 0.84), rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_linear_rule_is_exact_for_sgd_on_a_gradient_that_does_not_change(momentum: float) -> None:
    """With momentum in the limit of a constant velocity, which the runs start from."""
    slope = torch.randn(5, dtype=torch.float64)
    ends = [
        descend(slope, scale_lr(0.01, size, 16), 960 // size, momentum) for size in (16, 32, 96, 480)
    ]  # of 960 items
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-12, atol=1e-14)


def descend(slope: Tensor, lr: float, steps: int, momentum: float) -> Tensor:
    weight = nn.Parameter(torch.zeros_like(slope))
    optimizer = SGD([weight], lr, momentum=momentum)
    optimizer.state[weight]["momentum_buffer"] = slope / (1 - momentum) if momentum else None
    for _ in range(steps):
        weight.grad = slope.clone()
        optimizer.step()
    return weight.detach()


def test_a_summed_loss_under_sgd_carries_the_linear_rule_already() -> None:
    x = torch.randn(96, 3, dtype=torch.float64)
    for size in (8, 32, 96):
        summed, mean = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
        by_sum, by_mean = SGD([summed], 0.01), SGD([mean], scale_lr(0.01, size, 1))
        for part in x.split(size):
            summed.grad = (part - summed.detach()).sum(0)
            mean.grad = (part - mean.detach()).mean(0)
            by_sum.step()
            by_mean.step()
        torch.testing.assert_close(summed, mean, rtol=1e-12, atol=1e-15)


@given(
    lr=st.floats(1e-8, 1e2),
    memory=st.tuples(st.floats(1e-9, 1e-2), st.floats(1e-9, 1e-2)),
    eps=st.floats(0, 1e-3),
    sizes=st.tuples(*[st.integers(16, 128)] * 3),
)
def test_adams_rule_composes_and_is_undone_by_the_way_back(
    lr: float, memory: tuple[float, float], eps: float, sizes: tuple[int, int, int]
) -> None:
    a, b, c = sizes
    start = AdamScale(lr, (1 - memory[0], 1 - memory[1]), eps)
    there = scale_adam(lr, start.betas, eps, b, a)
    for end, expected in (
        (scale_adam(there.lr, there.betas, there.eps, a, b), start),
        (scale_adam(there.lr, there.betas, there.eps, c, b), scale_adam(lr, start.betas, eps, c, a)),
    ):
        assert (end.lr, end.eps) == pytest.approx((expected.lr, expected.eps), rel=1e-12)
        assert end.betas == pytest.approx(expected.betas, abs=1e-14)


@given(k=st.sampled_from([0.25, 0.5, 2.0, 4.0, 8.0]), beta=st.floats(0.9, 0.99999))
def test_the_moments_average_over_as_many_items_as_before(k: float, beta: float) -> None:
    """The mean age of a gradient in the moment, 1 / (1 - beta) steps, counted in items."""
    scaled = scale_adam(1.0, (beta, beta), 0.0, 32 * k, 32)
    for moment in scaled.betas:
        assert 32 * k / (1 - moment) == pytest.approx(32 / (1 - beta), rel=1e-9)


def noise_walk(batch_size: int, settings: AdamScale, items: int, level: float) -> tuple[Tensor, Tensor]:
    """Displacement after `items` items of pure noise, from stationary moments; with the settled second moment."""
    weight = nn.Parameter(torch.zeros(20_000))
    optimizer = Adam([weight], settings.lr, settings.betas, settings.eps)
    for step in range((items + WARM_UP) // batch_size):
        if step == WARM_UP // batch_size:
            weight.data.zero_()
        weight.grad = level * torch.randn(20_000) / math.sqrt(batch_size)
        optimizer.step()
    return weight.detach(), optimizer.state[weight]["exp_avg_sq"]


WARM_UP = 1024


@pytest.mark.parametrize("level", [1.0, 1e-4], ids=["eps negligible", "eps as large as the noise"])
def test_on_pure_noise_adams_rule_keeps_the_spread_and_its_rate_of_change_in_items(level: float) -> None:
    base = AdamScale(1e-3, (0.95, 0.998), 1e-4)
    runs = {8: base, 32: scale_adam(base.lr, base.betas, base.eps, 32, 8)}
    walks = {size: noise_walk(size, settings, 1024, level) for size, settings in runs.items()}
    spreads = {size: float(walk.square().mean().sqrt()) for size, (walk, _) in walks.items()}
    assert spreads[32] == pytest.approx(spreads[8], rel=0.03)
    wobble = {size: float(v.std() / v.mean()) for size, (_, v) in walks.items()}  # 1 / sqrt(items that v remembers)
    assert wobble[32] / wobble[8] == pytest.approx(math.sqrt(4), rel=0.1)  # in steps, not in items: squares of means


def test_the_square_root_without_eps_would_miss_where_eps_matters() -> None:
    base = AdamScale(1e-3, (0.95, 0.998), 1e-4)
    scaled = scale_adam(base.lr, base.betas, base.eps, 32, 8)
    unscaled_eps = AdamScale(scaled.lr, scaled.betas, base.eps)
    spread = {}
    for name, size, settings in (("base", 8, base), ("kept", 32, unscaled_eps)):
        walk, _ = noise_walk(size, settings, 1024, 1e-4)
        spread[name] = float(walk.square().mean().sqrt())
    assert spread["kept"] < 0.9 * spread["base"]


def test_a_decay_of_zero_stays_zero_which_makes_it_the_rule_of_rmsprop() -> None:
    scaled = scale_adam(1e-3, (0.0, 0.99), 1e-8, 64, 16)
    assert scaled.betas == pytest.approx((0.0, 0.96), rel=1e-12, abs=0)
    weights = [nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2)]
    adam = Adam([weights[0]], scaled.lr, scaled.betas, scaled.eps)
    rmsprop = RMSprop([weights[1]], scaled.lr, alpha=scaled.betas[1], eps=scaled.eps)
    adam.state[weights[0]].update(  # far along, where the bias correction has gone
        step=torch.tensor(1e6), exp_avg=torch.zeros(4).double(), exp_avg_sq=torch.ones(4).double()
    )
    rmsprop.state[weights[1]].update(step=torch.tensor(1e6), square_avg=torch.ones(4).double())
    for weight, optimizer in zip(weights, (adam, rmsprop), strict=True):
        weight.grad = torch.tensor([0.1, 1.0, 2.0, -3.0], dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [10, 16])
def test_a_moment_that_would_forget_within_a_step_is_refused_with_what_to_do(k: int) -> None:
    with pytest.raises(ValueError, match=r"`betas\[0\]` = 0.9 .* less than 10 times, .* sqrt rule"):
        scale_adam(1e-3, (0.9, 0.999), 1e-8, 8 * k, 8)
    assert scale_adam(1e-3, (0.9, 0.999), 1e-8, 79, 8).betas[0] > 0


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("name", ["lr", "batch_size", "base_batch_size"])
def test_what_is_not_positive_and_finite_is_refused_by_name(name: str, wrong: float) -> None:
    sizes = {"lr": 0.1, "batch_size": 8, "base_batch_size": 4} | {name: wrong}
    with pytest.raises(ValueError, match=f"`{name}` must be positive and finite, found {wrong}"):
        scale_lr(**sizes)
    with pytest.raises(ValueError, match=f"`{name}` must be positive and finite, found {wrong}"):
        scale_adam(betas=(0.9, 0.9), eps=1e-8, **sizes)


@pytest.mark.parametrize(
    ("betas", "eps", "name"), [((1.0, 0.9), 0, "betas"), ((0.9, -0.1), 0, "betas"), ((0.9, 0.9), -1, "eps")]
)
def test_settings_that_adam_could_not_have_are_refused(betas: tuple[float, float], eps: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}"):
        scale_adam(1e-3, betas, eps, 8, 8)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no types, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(
        ValueError, match="`rule` must be one of linear, sqrt; found 'adam'; Adam's rule is `scale_adam`"
    ):
        scale_lr(0.1, 8, 4, "adam")
