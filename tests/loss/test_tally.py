"""The tally: however a window is cut, its gradient is the union batch's."""

import copy
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.loss.windows import OBJECTIVES, batch, distance, gradient_of, net, wanted
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from truestep.core import sum_count
from truestep.loss import Tally

SCALES = ("mean", "ref", "unit", "sqrt", "ngd")
SPLITS = ([96], [48, 48], [1, 5, 30, 60], [1] * 96)


def tallied(tally: Tally, model: nn.Module, parts: list) -> Tensor:
    model.zero_grad()
    for part in parts:
        tally.backward(part.losses(model), part.mask, part.weight)
    tally.finish(model.parameters())
    return gradient_of(model)


@pytest.mark.parametrize("split", SPLITS, ids=["1 x 96", "2 x 48", "1 5 30 60", "96 x 1"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("per", OBJECTIVES)
def test_any_split_gives_the_union_batch_s_gradient(per, scale, split: list[int]) -> None:
    model, whole = net(), batch()
    found = tallied(Tally(per, scale), model, whole.split(split))
    assert distance(found, wanted(per, scale, model, whole)) < 1e-6


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("per", OBJECTIVES)
def test_in_float64_it_is_exact(per, scale) -> None:
    model, whole = net(torch.float64), batch(dtype=torch.float64)
    found = tallied(Tally(per, scale), model, whole.split([7, 1, 40, 48]))
    assert distance(found, wanted(per, scale, model, whole)) < 1e-14


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), exponent=st.integers(-10, 10))
def test_the_window_s_record_is_that_of_the_union_at_every_scale(sizes: list[int], exponent: int) -> None:
    losses = torch.rand(sum(sizes), dtype=torch.float64) * 10.0**exponent
    weight = torch.rand(sum(sizes), dtype=torch.float64)
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    tally = Tally("weight")
    for part, w in zip(losses.split(sizes), weight.split(sizes), strict=True):
        tally.backward(leaf * part, weight=w)
    window, union = tally.finish([leaf]), sum_count(losses, weight)
    torch.testing.assert_close(window.mean, union.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(leaf.grad, union.mean, rtol=1e-13, atol=0)


@pytest.mark.parametrize("per", ["item", "token", "weight"])
def test_a_scalar_mean_with_its_count_is_multiplied_back(per) -> None:
    model, whole = net(), batch(tokens=1)
    x, y = whole.x[:, 0], whole.y[:, 0]
    tally = Tally(per)
    for xs, ys in zip(x.split([3, 60, 33]), y.split([3, 60, 33]), strict=True):
        tally.backward(cross_entropy(model(xs), ys), count=len(ys))
    tally.finish(model.parameters())
    found = gradient_of(model)
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    assert distance(found, gradient_of(model)) < 1e-6


def test_a_mean_of_nothing_adds_nothing() -> None:
    model, whole = net(), batch(tokens=1)
    x, y = whole.x[:, 0], whole.y[:, 0]
    ignored = torch.full_like(y[:8], -100)
    for empty in (0, torch.tensor(0)):
        tally = Tally("token")
        model.zero_grad()
        tally.backward(cross_entropy(model(x), y), count=len(y))
        nothing = cross_entropy(model(x[:8]), ignored)  # 0/0
        assert nothing.isnan()
        tally.backward(nothing, count=empty)
        window = tally.finish(model.parameters())
        found = gradient_of(model)
        assert window.mean == cross_entropy(model(x), y).double()
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        assert distance(found, gradient_of(model)) < 1e-6


@pytest.mark.parametrize("scale", SCALES)
def test_a_window_of_ignored_targets_gives_exact_zeros_and_leaves_no_trace(scale) -> None:
    model, whole = net(), batch()
    tally = Tally("token", scale)
    model.zero_grad()
    tally.backward(whole.losses(model), torch.zeros_like(whole.mask))
    assert tally.finish(model.parameters()).weight == 0
    assert gradient_of(model).abs().max() == 0
    found = tallied(tally, model, whole.split([90, 6]))
    assert distance(found, wanted("token", scale, model, whole)) < 1e-6


@pytest.mark.parametrize("scale", ["unit", "sqrt"])
@pytest.mark.parametrize("value", [-1.0, 0.0, torch.inf])
def test_a_loss_without_a_positive_size_gives_exact_zeros(scale, value: float) -> None:
    leaf = torch.ones(3, requires_grad=True)
    tally = Tally(scale=scale)
    tally.backward((leaf.sum() + value - 3).reshape(1))
    assert tally.finish([leaf]).mean == value
    assert leaf.grad.abs().max() == 0


@pytest.mark.parametrize("scale", SCALES)
def test_a_nan_is_never_hidden(scale) -> None:
    leaf = torch.ones(2, requires_grad=True)
    tally = Tally(scale=scale)
    tally.backward(leaf * torch.tensor([1.0, torch.nan]))
    assert tally.finish([leaf]).mean.isnan()
    assert leaf.grad.isnan().any()


@pytest.mark.parametrize("per", ["token", "item", "weight"])
def test_what_is_masked_or_weighs_nothing_may_be_nan(per) -> None:
    losses = torch.tensor([[1.0, torch.nan], [3.0, torch.inf]], requires_grad=True)
    for ignored in ({"mask": torch.tensor([[1, 0], [1, 0]])}, {"weight": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}):
        losses.grad = None
        tally = Tally(per)
        tally.backward(losses, **({"weight": torch.ones(2)} | ignored))
        assert tally.finish([losses]).loss.isfinite()
        assert losses.grad[:, 1].abs().max() == 0


def test_mask_and_weight_may_lack_trailing_dimensions() -> None:
    losses = torch.rand(4, 3, 2, requires_grad=True)
    mask, weight = torch.tensor([True, False, True, True]), torch.rand(4, 3)
    for per in ("item", "token", "weight"):
        grads = []
        for m, w in ((mask, weight), (mask[:, None, None].expand(4, 3, 2), weight[:, :, None].expand(4, 3, 2))):
            losses.grad, tally = None, Tally(per)
            tally.backward(losses, m, w)
            window = tally.finish([losses])
            grads.append(torch.cat([losses.grad.flatten(), torch.stack([window.loss, window.weight, window.count])]))
        torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("scale", ["mean", "ref"])
def test_with_the_count_in_advance_finish_leaves_the_gradients_alone(scale) -> None:
    model, whole = net(), batch()
    known, learned = Tally("token", scale), Tally("token", scale)
    for i in range(3):
        known.begin(whole.mask.sum() if i % 2 else int(whole.mask.sum()))
        found = tallied(learned, model, whole.split([50, 46]))
        touched = patch("truestep.loss._tally.scale_", side_effect=AssertionError) if scale == "mean" or i else None
        if touched:
            with touched:
                ahead = tallied(known, model, whole.split([50, 46]))
        else:  # the first window of all has no reference yet
            ahead = tallied(known, model, whole.split([50, 46]))
        assert distance(ahead, found) < 1e-6


def test_a_total_given_once_holds_for_every_window() -> None:
    model, whole = net(), batch()
    tally = Tally("token", total=float(whole.mask.sum()))
    for _ in range(2):
        found = tallied(tally, model, whole.split([50, 46]))
        assert distance(found, wanted("token", "mean", model, whole)) < 1e-6


def test_the_reference_is_frozen_after_its_windows() -> None:
    leaf = torch.ones(1, requires_grad=True)
    tally = Tally(scale="ref")
    seen = []
    for loss in [2.0] * 5 + [4.0] * 15 + [100.0] * 3:
        leaf.grad = None
        tally.backward(leaf * loss)
        tally.finish([leaf])
        seen.append(leaf.grad.item())
    assert seen[:6] == [1.0] * 5 + [2.0]
    assert seen[6] == pytest.approx(4 / (14 / 6))
    assert seen[-3:] == [pytest.approx(100 / 3.5)] * 3  # (5 * 2 + 15 * 4) / 20


def test_the_state_goes_on_where_it_was_saved() -> None:
    model, whole = net(), batch()
    tally = Tally("token", "ref")
    tallied(tally, model, whole.split([50, 46]))
    state = copy.deepcopy(tally.state_dict())
    again = Tally("token", "ref")
    again.total(whole.losses(model), whole.mask)  # a window that was under way is dropped
    again.load_state_dict(state)
    later = batch(seed=1)
    for part in (tally, again):
        part.found = tallied(part, model, later.split([10, 86]))
    assert torch.equal(tally.found, again.found)
    assert distance(again.found, tallied(Tally("token", "ref"), model, [later])) > 1e-3
    assert state["prescale"] == copy.deepcopy(state)["prescale"]  # saving gave a copy
    with pytest.raises(ValueError, match="scale='ref', this one has scale='mean'"):
        Tally("token").load_state_dict(state)


def test_begin_drops_an_interrupted_window() -> None:
    model, whole = net(), batch()
    tally = Tally("token")
    tally.total(whole.losses(model), whole.mask, whole.weight)
    tally.begin()
    assert distance(tallied(tally, model, [whole]), wanted("token", "mean", model, whole)) < 1e-6


def test_validation_is_not_counted() -> None:
    model, whole = net(), batch()
    tally = Tally("token")
    tally.total(whole.losses(model), whole.mask, whole.weight)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            tally.total(whole.losses(model), whole.mask, whole.weight)
    tally.backward(whole.losses(model), whole.mask)
    assert tally.finish(model.parameters()).weight == 2 * whole.mask.sum()


def test_a_first_look_in_inference_mode_spoils_no_training() -> None:
    model, whole, tally = net(), batch(), Tally("token")
    with torch.inference_mode():
        tally.total(whole.losses(model), whole.mask)
    assert distance(tallied(tally, model, [whole]), wanted("token", "mean", model, whole)) < 1e-6


def test_the_next_window_s_total_is_about_a_mean_of_one_of_this_size() -> None:
    leaf = torch.ones((), requires_grad=True)
    tally = Tally("token")
    for terms in (7, 1000, 1 << 16, 3):
        tally.backward(leaf.expand(terms))
        tally.finish(leaf)
        assert 0.5 <= tally.total(leaf.expand(terms)).item() <= 1
        tally.begin()
    tally.backward(leaf.expand(3), weight=torch.tensor([1.0, torch.inf, 1.0]))
    tally.finish(leaf)
    assert 0.5 < tally.total(leaf.expand(3)).item() <= 1  # a spoiled window leaves no trace


def test_all_that_stands_in_grad_is_multiplied_unless_the_count_was_known() -> None:
    for total, expected in ((None, 8.0), (1, 1.0)):
        leaf, other = torch.ones(4, requires_grad=True), torch.ones((), requires_grad=True)
        tally = Tally("token")
        tally.backward(leaf)
        tally.finish([leaf])  # from here on the pre-scale is 1/8
        leaf.grad = None
        tally.begin(total)
        tally.backward(leaf[:1])
        other.backward()  # beside the tally
        tally.finish([leaf, other])
        assert leaf.grad.tolist() == [1.0, 0.0, 0.0, 0.0]
        assert other.grad == expected


def test_parameters_without_a_gradient_are_passed_over() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    tally = Tally()
    tally.backward(used * torch.tensor([1.0, 3.0]))
    tally.finish([unused, used])
    assert unused.grad is None
    assert used.grad.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tally("tokens"), "`per` must be one of item, token, weight; found 'tokens'"),
        (lambda: Tally(scale="unity"), "`scale` must be one of mean, ref, unit, sqrt, ngd"),
        (lambda: Tally(reduced="avg"), "`reduced` must be one of mean, sum, none"),
        (lambda: Tally().total(torch.ones(())), "a scalar mean with `count`; found 0 dimensions, count=None"),
        (lambda: Tally().total(torch.ones(3), count=3), "found 1 dimensions, count=3"),
        (lambda: Tally("weight").total(torch.ones(3)), "`weight` is what per='weight' divides by"),
        (lambda: Tally().total(torch.ones(3, 2), torch.ones(2)), r"`mask` must have .* found \[2\] for \[3, 2\]"),
        (lambda: Tally().total(torch.ones(3), weight=torch.ones(3, 1)), r"`weight` .* found \[3, 1\] for \[3\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_call_is_told_what_to_do(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_finish_without_losses_is_an_error() -> None:
    leaf = torch.ones(1, requires_grad=True)
    with pytest.raises(RuntimeError, match="found no losses"):
        Tally().finish([leaf])
    leaf.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match="found no losses"):
        Tally().finish([leaf])


@pytest.mark.usefixtures("unchecked")
def test_parameters_that_hold_no_gradient_are_an_error() -> None:
    model, whole = net(), batch()
    used_up = model.parameters()
    list(used_up)
    for parameters, error, message in (
        (used_up, RuntimeError, "found no gradients"),
        (model.named_parameters(), TypeError, "must hold tensors.* found a tuple"),
        ([{"params": []}], TypeError, "found a dict"),
    ):
        tally = Tally("token")
        tally.backward(whole.losses(model), whole.mask)
        with pytest.raises(error, match=message):
            tally.finish(parameters)


def test_a_lone_tensor_is_one_parameter() -> None:
    leaf = torch.ones(2, requires_grad=True)
    tally = Tally()
    tally.backward(leaf * 3)
    tally.finish(leaf)
    assert leaf.grad.tolist() == [1.5, 1.5]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("scale", ["mean", "ref", "unit", "sqrt", "ngd"])
def test_which_scales_forget_the_loss_s_size(scale) -> None:
    """300 SGD steps, the loss times c over 16 decades, its mean or its sum: the distance between the weights."""
    forgets = scale in ("ref", "unit", "ngd")
    x, y = torch.randn(64, 4), torch.randn(64, 2)
    ends, start = {}, None
    for c, reduction in ((1.0, "mean"), (1.0, "sum"), (1e-8, "sum"), (1e8, "mean")):
        torch.manual_seed(3)
        model, tally = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), Tally(scale=scale)
        start = nn.utils.parameters_to_vector(model.parameters()).detach()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _ in range(300 if forgets else 50):
            optimizer.zero_grad()
            loss = c * mse_loss(model(x), y, reduction=reduction)
            tally.backward(loss, count=1)
            tally.finish(model.parameters())
            optimizer.step()
        ends[c, reduction] = nn.utils.parameters_to_vector(model.parameters()).detach()
    reference = ends[1.0, "mean"]
    moved = (reference - start).norm()
    apart = max(float((end - reference).norm() / moved) for end in ends.values() if end.isfinite().all())
    exploded = any(not end.isfinite().all() for end in ends.values())
    if forgets:
        assert not exploded
        assert apart < 1e-5
    else:
        assert exploded or apart > 0.1
