"""A loss over itself is the gradient of its logarithm; a loss that has none shows nan and gives a zero gradient."""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, mse_loss

from truestep.loss import unit_loss

HOST_READS = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu", "__array__")
FORMATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture
def no_host_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a tensor was read on the host")

    for name in HOST_READS:
        monkeypatch.setattr(Tensor, name, refuse)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a user's process: jaxtyping checks no types, so that our own messages speak."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def as_installed() -> Iterator[Callable[..., Tensor]]:
    """`unit_loss` without the tests' checks of shapes, which the compiler cannot trace."""
    source = inspect.getsourcefile(inspect.unwrap(unit_loss))
    assert source
    spec = importlib.util.spec_from_file_location("unit_loss_as_installed", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.unit_loss
    del sys.modules[spec.name]


def gradient(loss_of: Callable[[Tensor], Tensor], w: Tensor, accumulate: int = 1) -> tuple[float, Tensor]:
    """Value and gradient of the unit loss at `w`."""
    w = w.clone().requires_grad_()
    unit = unit_loss(loss_of(w), accumulate)
    return float(unit.detach()), torch.autograd.grad(unit, w)[0]


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(numbers, dtype=dtype)


def test_the_gradient_is_that_of_the_logarithm() -> None:
    w = torch.randn(5, dtype=torch.float64)
    x, y = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    leaf = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mse_loss(x @ leaf, y).log(), leaf)
    value, found = gradient(lambda w: mse_loss(x @ w, y), w)
    assert value == 1.0
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@given(st.integers(-120, 120), st.sampled_from([torch.float32, torch.float64]))
def test_a_power_of_two_on_the_loss_changes_no_bit(exponent: int, dtype: torch.dtype) -> None:
    w = values(3.0, -2.0, 0.5, dtype=dtype)
    assert torch.equal(gradient(lambda w: w.square().sum() * 2.0**exponent, w)[1], gradient(lambda w: w @ w, w)[1])


@given(st.floats(-30, 30))
def test_any_factor_within_float32_changes_roundings_only(power: float) -> None:
    w = values(0.75, -0.5, 0.25)
    value, found = gradient(lambda w: w.square().sum() * 10.0**power, w)
    assert value == 1.0
    torch.testing.assert_close(found, 2 * w / (w @ w), rtol=4e-7, atol=0)


def test_sum_and_mean_give_one_gradient() -> None:
    x, y, w = torch.randn(10, 10), torch.randn(10, 10), torch.randn(10, 10)
    ways = [gradient(lambda w, r=reduction: mse_loss(x @ w, y, reduction=r), w)[1] for reduction in ("sum", "mean")]
    torch.testing.assert_close(*ways, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 7])
def test_micro_batches_share_the_step(accumulate: int) -> None:
    w = values(1.0, 2.0)
    value, found = gradient(lambda w: w @ w, w, accumulate)
    assert value == pytest.approx(1 / accumulate, rel=1e-7)
    torch.testing.assert_close(found, 2 * w / (5 * accumulate), rtol=3e-7, atol=0)


def test_two_losses_add_up_to_the_source_s_recipe_which_is_not_the_unit_loss_of_the_batch() -> None:
    w = values(2.0, dtype=torch.float64).requires_grad_()
    losses = [(w - 1).square().sum(), (w - 4).square().sum()]  # 1 and 4, gradients 2 and -4
    (recipe,) = torch.autograd.grad(sum(unit_loss(loss, 2) for loss in losses), w, retain_graph=True)
    (whole,) = torch.autograd.grad(unit_loss((losses[0] + losses[1]) / 2), w)
    assert (float(recipe), float(whole)) == pytest.approx((0.5, -0.4), rel=1e-12)  # not even the same sign


@pytest.mark.parametrize("bad", [-3.0, -1e-30, 0.0, -0.0, math.inf, -math.inf])
def test_a_loss_without_logarithm_shows_nan_and_has_a_zero_gradient(bad: float) -> None:
    def loss_of(w: Tensor) -> Tensor:
        return w.sum() + bad  # the gradient of the loss itself is ones

    w = torch.zeros(3)
    if -math.inf < bad < 0 or bad == -math.inf:
        with pytest.warns(RuntimeWarning, match='scale="ref"'):
            value, found = gradient(loss_of, w)
    else:
        value, found = gradient(loss_of, w)
    assert math.isnan(value)
    assert found.tolist() == [0.0, 0.0, 0.0]


def test_a_nan_is_hidden_neither_in_the_value_nor_in_the_gradient() -> None:
    value, found = gradient(lambda w: w.sum() + torch.nan, torch.zeros(2))  # its own gradient is ones
    assert math.isnan(value)
    assert found.isnan().all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_where_every_target_is_ignored_the_value_is_nan(reduction: str) -> None:
    targets = torch.tensor([-100, -100])
    value, found = gradient(lambda w: cross_entropy(w, targets, reduction=reduction), torch.randn(2, 4))
    assert math.isnan(value)
    assert found.tolist() == [[0.0] * 4] * 2  # an ignored target's own backward is zero, also times nan


def test_the_loss_s_own_backward_may_make_nan_of_an_infinite_loss() -> None:
    value, found = gradient(lambda w: -w.log().sum(), values(0.0, 1.0))
    assert math.isnan(value)
    assert found[0].isnan()
    assert found[1] == 0


def test_a_large_logit_s_infinite_loss_does_not_vanish_in_silence() -> None:
    logits, target = values(torch.inf, 0.0)[None], torch.tensor([1])
    value, _ = gradient(lambda w: cross_entropy(w, target), logits)
    assert math.isnan(value)


@pytest.mark.parametrize("tiny", [1e-45, 1e-42, 2e-39])
def test_a_loss_too_small_to_divide_by_does_not_overflow_the_gradient(tiny: float) -> None:
    value, found = gradient(lambda w: w.sum() * tiny, values(1.0))
    assert math.isnan(value)
    assert float(found) == 0.0


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [1e-7, 3e-5, 0.1, 1.0, 60000.0])
def test_in_every_format_the_gradient_is_right_or_zero_and_the_value_says_which(
    dtype: torch.dtype, size: float
) -> None:
    loss = torch.tensor(size, dtype=dtype, requires_grad=True)
    unit = unit_loss(loss)
    (found,) = torch.autograd.grad(unit, loss)
    expected = 1 / float(loss.detach())
    assert unit.dtype == torch.promote_types(dtype, torch.float32)
    if dtype == torch.float16 and size < 1 / 65504:
        assert (math.isnan(float(unit.detach())), float(found)) == (True, 0.0)
    else:
        assert float(unit.detach()) == 1.0
        assert float(found) == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps)


def test_a_gradient_that_its_format_rounds_to_zero_is_no_silent_zero_step() -> None:
    loss = torch.tensor(60000.0, dtype=torch.float16, requires_grad=True)
    unit = unit_loss(loss, accumulate=4096)  # 4e-9, below half of float16's least number
    assert unit.isnan()
    assert float(torch.autograd.grad(unit, loss)[0]) == 0.0


def test_a_half_precision_loss_is_divided_in_float32() -> None:
    w = values(1.0).requires_grad_()
    unit = unit_loss((w.sum() * 3).to(torch.bfloat16), accumulate=3)
    assert unit.dtype == torch.float32
    assert float(unit.detach()) == pytest.approx(1 / 3, rel=1e-7)  # bfloat16 would give 0.3340


def test_samples_are_refused_without_a_floor_and_told_why() -> None:
    with pytest.raises(ValueError, match=r"`loss` must be a scalar, found shape \(4,\).*geometric mean.*`floor=`"):
        unit_loss(torch.rand(4))


def test_a_floor_bounds_each_sample_s_weight_by_its_inverse() -> None:
    losses = values(0.0, 1.0, 3.0, dtype=torch.float64).requires_grad_()
    with pytest.warns(RuntimeWarning, match="geometric mean"):
        unit = unit_loss(losses, 2, floor=1.0)
    (found,) = torch.autograd.grad(unit, losses)
    torch.testing.assert_close(found, values(1, 1 / 2, 1 / 4, dtype=torch.float64) / 6, rtol=1e-15, atol=0)
    assert float(unit.detach()) == pytest.approx((0 + 1 / 2 + 3 / 4) / 6, rel=1e-15)


@pytest.mark.filterwarnings("ignore:unit_loss:RuntimeWarning")
def test_a_small_floor_gives_the_gradient_of_the_geometric_mean() -> None:
    losses = (torch.rand(6, dtype=torch.float64) + 0.1).requires_grad_()
    (found,) = torch.autograd.grad(unit_loss(losses, floor=1e-14), losses)
    (expected,) = torch.autograd.grad(losses.log().mean(), losses)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:unit_loss:RuntimeWarning")
@pytest.mark.parametrize("bad", [-1.0, -0.05, math.inf])
def test_one_bad_sample_makes_the_value_nan_and_every_gradient_zero(bad: float) -> None:
    losses = values(1.0, bad, 2.0).requires_grad_()
    unit = unit_loss(losses, floor=0.1)
    (found,) = torch.autograd.grad(unit, losses)
    assert unit.isnan()
    assert found.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore:unit_loss:RuntimeWarning")
@pytest.mark.parametrize("losses", [torch.zeros(3), torch.zeros(0)], ids=["all zero", "none"])
def test_samples_that_are_all_zero_or_none_are_no_silent_zero_step(losses: Tensor) -> None:
    losses.requires_grad_()
    unit = unit_loss(losses, floor=0.1)
    assert unit.isnan()
    assert not torch.autograd.grad(unit, losses)[0].any()


def test_a_floor_for_a_scalar_lets_the_step_shrink_with_the_loss() -> None:
    loss = values(0.5).sum().requires_grad_()
    unit = unit_loss(loss, floor=1.5)
    assert float(torch.autograd.grad(unit, loss)[0]) == 0.5
    assert float(unit.detach()) == 0.25


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("accumulate", [0, -1, 2.0, True, None])
def test_what_is_no_number_of_micro_batches_is_refused(accumulate: Any) -> None:
    with pytest.raises(ValueError, match=f"`accumulate` must be a positive int.*found {accumulate!r}"):
        unit_loss(torch.tensor(1.0), accumulate)


@pytest.mark.parametrize("floor", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_floor_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="`floor` must be positive and finite"):
        unit_loss(torch.tensor(1.0), floor=floor)


@pytest.mark.parametrize("number", [2.0, 0.0, math.inf, math.nan, -1.0])
@pytest.mark.filterwarnings("ignore:unit_loss got a negative loss:RuntimeWarning")
@pytest.mark.usefixtures("no_host_read")
def test_nothing_is_read_on_the_host(number: float) -> None:
    loss = torch.full((), number, requires_grad=True)
    unit_loss(loss, 2).backward()
    assert loss.grad is not None


@pytest.mark.usefixtures("no_host_read")
def test_the_source_s_own_way_would_be_seen() -> None:
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(AssertionError, match="read on the host"):
        (loss / loss.item()).backward()


def test_in_a_trace_and_under_vmap_the_numbers_are_the_same_and_none_is_looked_at() -> None:
    numbers = values(0.5, -2.0, 0.0, 4.0)
    shown = torch.func.vmap(unit_loss)(numbers)  # a negative one among them: no warning, no exception
    assert shown.isnan().tolist() == [False, True, True, False]
    assert torch.func.vmap(torch.func.grad(unit_loss))(numbers).tolist() == [2.0, 0.0, 0.0, 0.25]
    assert unit_loss(torch.empty((), device="meta")).device.type == "meta"
    with FakeTensorMode():
        assert unit_loss(torch.empty(())).shape == ()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("number", [0.25, -1.0, 0.0])
def test_compiled_it_is_one_graph_with_the_same_numbers(
    backend: str, number: float, as_installed: Callable[..., Tensor]
) -> None:
    torch.compiler.reset()

    def step(w: Tensor) -> Tensor:
        return as_installed(w.sum(), 2)

    plain, compiled = (torch.tensor([number], requires_grad=True) for _ in range(2))
    if number < 0:
        with pytest.warns(RuntimeWarning, match="negative"):
            expected = step(plain)
    else:
        expected = step(plain)
    found = torch.compile(step, backend=backend, fullgraph=True)(compiled)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert plain.grad is not None
    assert compiled.grad is not None
    assert torch.equal(plain.grad, compiled.grad)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_compiler_finds_no_graph_break_where_the_source_s_way_has_one(as_installed: Callable[..., Tensor]) -> None:
    torch.compiler.reset()
    breaks = [
        torch._dynamo.explain(lambda w, way=way: way(w.sum()))(torch.ones(2, requires_grad=True)).graph_break_count
        for way in (as_installed, lambda loss: loss / loss.item())
    ]
    assert breaks == [0, 1]


def test_the_net_trains_alike_whatever_the_unit_of_the_loss() -> None:
    def train(factor: float, reduction: str) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        x = torch.randn(32, 4, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            unit_loss(factor * mse_loss(model(x), x[:, :1].sin(), reduction=reduction)).backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    ways = [train(factor, reduction) for factor in (1e-8, 1.0, 1e8) for reduction in ("mean", "sum")]
    for other in ways[1:]:
        torch.testing.assert_close(other, ways[0], rtol=0, atol=1e-9)
