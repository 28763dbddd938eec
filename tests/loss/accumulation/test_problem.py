"""What a loss function may give, what is read off the batches, and the reference made of parts or of the union."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.loss.accumulation.loops import Tokens, each, mean, mlp, next_words, right, tokens, weighted, window
from torch import nn

from truestep.loss.accumulation import _window
from truestep.loss.accumulation._collate import joined
from truestep.loss.accumulation._comparison import compare
from truestep.loss.accumulation._problem import Problem, mean_loss


def test_a_scalar_has_no_weight() -> None:
    loss, weight = mean_loss(torch.tensor([[3.0]]))
    assert (loss.shape, float(loss), weight) == ((), 3.0, None)


def test_the_hand_worked_weighted_mean_leaves_out_what_weighs_nothing_even_nan() -> None:
    losses = torch.tensor([1.0, 4.0, torch.nan], requires_grad=True)
    loss, weight = mean_loss((losses, torch.tensor([1.0, 0.5, 0.0])))
    assert (float(loss.detach()), weight) == (2.0, 1.5)
    loss.backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, torch.tensor([2 / 3, 1 / 3, 0.0]))


@pytest.mark.parametrize("weights", [torch.tensor([True, False]), [1, 0], torch.tensor([1, 0])])
def test_weights_may_be_a_mask_or_a_list(weights: Any) -> None:
    loss, weight = mean_loss((torch.tensor([2.0, 9.0]), weights))
    assert (float(loss), weight) == (2.0, 1.0)


def test_a_mean_and_its_count_will_do() -> None:
    loss, weight = mean_loss((torch.tensor(2.0), 7))
    assert (float(loss), weight) == (2.0, 7.0)


def test_a_micro_batch_without_weight_has_loss_zero_and_is_no_nan() -> None:
    loss, weight = mean_loss((torch.tensor([2.0, 9.0]), torch.zeros(2)))
    assert (float(loss), weight) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.ones(3), r"a tensor of shape \(3,\)"),
        ({"loss": torch.ones(())}, "found dict"),
        ((torch.ones(2), torch.ones(2), torch.ones(2)), "found tuple"),
        (2.5, "found float"),
        ((torch.ones(2, 3), torch.ones(2)), r"of one shape, found \(2, 3\) and \(2,\)"),
    ],
)
def test_another_form_is_refused(output: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mean_loss(output)


def test_parts_and_union_give_one_reference_and_the_right_loop_gives_it_too() -> None:
    model, batches = mlp().eval(), tuple(window(3, 5, 2))
    of_union, of_parts = (Problem(model, loss_fn, batches).reference() for loss_fn in (mean, weighted))
    assert compare(of_parts[0], of_union[0]).relative_error < 1e-14
    assert compare(Problem(model, mean, batches, right).loop(), of_union[0]).relative_error < 1e-14
    assert (of_union[1].weight, of_parts[1].weight) == (None, 10.0)


def test_what_is_known_of_a_window_is_read_off_its_batches() -> None:
    batches = tuple(tokens(16, 4))
    found = Problem(Tokens(), next_words, batches).reference()[1]
    assert (found.num_micro_batches, found.weight, found.lengths) == (2, 3 * 15 + 3 * 3, (16,))
    assert found.counts == (6, 96, 96, 90, 6, 96, 3 * 16 + 3 * 4, 3 * 15 + 3 * 3)
    assert found.kept[4:] == ((60, 96), (54, 90), (54, 96), (54, 60))


def test_the_window_s_loss_is_that_of_its_union() -> None:
    model, batches = mlp().eval(), tuple(window(3, 5, 2))
    of_union, of_parts = (Problem(model, loss_fn, batches).reference()[1].loss for loss_fn in (mean, weighted))
    assert of_union == pytest.approx(float(mean(model, joined(batches)).detach()), rel=1e-14)
    assert of_parts == pytest.approx(of_union, rel=1e-14)


def test_equal_objects_that_are_no_tensors_stand_in_the_union_as_they_are() -> None:
    shared = np.ones(3)
    batches = tuple({**batch, "shared": shared} for batch in window(3, 5))
    assert Problem(mlp(), mean, batches).reference()[1].num_micro_batches == 2


def test_the_narrowest_float_of_the_forward_pass_is_seen() -> None:
    def cast(model: Any, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return mean(model, batch)

    for dtype, loss_fn, expected in ((torch.float64, mean, torch.float64), (torch.float32, cast, torch.bfloat16)):
        assert Problem(mlp(dtype=dtype), loss_fn, tuple(window(4, dtype=dtype))).reference()[2] == expected


def test_each_part_is_its_micro_batch_s_own_gradient() -> None:
    model, batches = mlp().eval(), tuple(window(3, 5))
    for batch, part in zip(batches, Problem(model, weighted, batches).parts(), strict=True):
        own = torch.autograd.grad(mean(model, batch), list(model.parameters()))
        assert compare(dict(zip(part, own, strict=True)), part).relative_error < 1e-14


def test_parts_too_large_to_keep_are_thinned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = mlp().eval(), tuple(window(3, 5))
    whole = Problem(model, mean, batches).parts()
    monkeypatch.setattr(_window, "WHOLE", 100)
    thin = Problem(model, mean, batches).parts()
    numel = sum(p.numel() for p in model.parameters())
    assert sum(x.numel() for x in thin[0].values()) < 0.6 * numel
    every = 1 + 2 * numel // 100
    assert torch.equal(thin[1]["0.weight"], whole[1]["0.weight"].flatten()[::every])


def test_half_of_a_window_is_its_first_micro_batches() -> None:
    batches = tuple(window(1, 2, 3, 4, 5))
    half = Problem(mlp(), mean, batches, each(mean)).half()
    assert half is not None
    assert half.micro_batches == batches[:2]
    assert half.half().half() is None  # type: ignore[union-attr]


def test_gradients_are_made_even_where_they_are_switched_off() -> None:
    with torch.no_grad():
        found = Problem(nn.Linear(2, 1), lambda m, b: m(b).mean(), (torch.ones(3, 2),)).reference()[0]
    assert math.isclose(float(found["weight"].sum()), 2.0)
