"""A loop is judged right exactly where its gradient is the union batch's, and each mistake gets its own name."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.loss.accumulation.loops import (
    Tokens,
    each,
    mean,
    mlp,
    next_words,
    right,
    summed,
    tokens,
    weighted,
    window,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from truestep.loss import AccumulationCheck, Tally, check_accumulation
from truestep.loss.accumulation._accumulation import _tolerance, judge
from truestep.loss.accumulation._evidence import Window


def assert_right(check: AccumulationCheck) -> None:
    assert check.ok, str(check)
    assert check.cause.startswith("the accumulated gradient is that of the union batch"), check.cause
    assert check.remedy == ""


def assert_wrong(check: AccumulationCheck, *words: str) -> None:
    assert not check.ok, str(check)
    assert all(word in check.cause for word in words), check.cause
    assert check.remedy


# --- factors


@pytest.mark.parametrize("loss_fn", [mean, weighted], ids=["scalar", "weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_missing_division_is_a_factor_k(loss_fn: Any, dtype: torch.dtype) -> None:
    check = check_accumulation(mlp(dtype=dtype), loss_fn, window(8, 8, 8, 8, dtype=dtype), each(mean))
    assert check.ratio == pytest.approx(4.0, abs=1e-3)
    assert check.cosine == pytest.approx(1.0, abs=1e-6)
    assert check.relative_error == pytest.approx(3.0, abs=1e-3)
    assert_wrong(check, "missing division", "4 micro-batches", "4.000 times")


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_a_short_window_is_a_factor_of_those_there_over_the_constant(k: int) -> None:
    check = check_accumulation(mlp(), mean, window(*[4] * k), each(mean, lambda _: 1 / 8))
    assert check.ratio == pytest.approx(k / 8, abs=1e-3)
    assert_wrong(check, "short window", "divides by 8", f"{k} micro-batches", f"{k / 8:.3f}")


def test_a_full_window_does_not_hide_what_happens_to_a_short_one() -> None:
    check = check_accumulation(mlp(), mean, window(4, 4, 4, 4), each(mean, lambda _: 1 / 4))
    assert check.ratio == pytest.approx(1.0)
    assert check.short is not None
    assert check.short.ratio == pytest.approx(0.5, abs=1e-3)
    assert_wrong(check, "short window", "divides by 4", "2 micro-batches", "0.500")


def test_a_divisor_that_is_too_small_is_named() -> None:
    assert_wrong(
        check_accumulation(mlp(), mean, window(*[4] * 6), each(mean, lambda _: 1 / 3)), "divides by 3", "2.000"
    )


def test_a_division_made_twice_is_named() -> None:
    check = check_accumulation(mlp(), mean, window(4, 4, 4, 4), each(mean, lambda k: 1 / k**2))
    assert check.ratio == pytest.approx(0.25)
    assert_wrong(check, "divided twice", "1/4")


@pytest.mark.parametrize("loss_fn", [mean, weighted], ids=["scalar", "weights"])
def test_a_sum_is_too_large_by_the_number_of_terms(loss_fn: Any) -> None:
    check = check_accumulation(mlp(), loss_fn, window(8, 2, 5, 20), each(summed))
    assert check.ratio == pytest.approx(35.0)
    assert_wrong(check, "sum reduction", "35 terms", "not divided")


def test_a_sum_divided_by_the_number_of_micro_batches_is_named() -> None:
    check = check_accumulation(mlp(), weighted, window(8, 2, 5, 20), each(summed, lambda k: 1 / k))
    assert check.ratio == pytest.approx(35 / 4)
    assert_wrong(check, "sum reduction", "by the 4 micro-batches only")


def test_a_loss_fn_that_gives_a_sum_is_told_apart_from_a_loop_that_does() -> None:
    assert_wrong(check_accumulation(mlp(), summed, window(8, 2, 5, 20)), "sum reduction", "`loss_fn` gives a sum")
    assert_right(check_accumulation(mlp(), summed, window(8, 2, 5, 20), each(summed)))


def test_a_label_that_the_shift_takes_away_but_the_loop_counts() -> None:
    def shifted(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            (next_words(model, batch)[0].sum() / batch["labels"].numel() / len(micro_batches)).backward()

    check = check_accumulation(Tokens(), next_words, tokens(16, 16, 16), shifted)
    assert check.ratio == pytest.approx(15 / 16, abs=1e-3)
    assert_wrong(check, "looks like a shifted label", "(16 - 1)/16")


def test_a_constant_factor_and_a_wrong_sign_are_told() -> None:
    batches = window(4, 4)
    assert_wrong(check_accumulation(mlp(), mean, batches, each(mean, lambda k: 1.37 / k)), "constant factor", "1.37")
    assert_wrong(check_accumulation(mlp(), mean, batches, each(mean, lambda k: 2.0**16 / k)), "power of two")
    assert_wrong(check_accumulation(mlp(), mean, batches, each(mean, lambda k: -1.0 / k)), "wrong sign")


# --- directions


def test_ragged_micro_batches_make_a_mean_of_means() -> None:
    check = check_accumulation(mlp(), mean, window(8, 2, 5, 20))
    assert check.cosine < 0.99
    assert_wrong(check, "mean of means", "0.229, 0.057, 0.143, 0.571")


def test_ragged_tokens_make_a_mean_of_means() -> None:
    check = check_accumulation(Tokens(), next_words, tokens(16, 4, 9, 2))
    assert check.cosine < 0.99
    assert_wrong(check, "mean of means", "0.556, 0.111, 0.296, 0.037")


def test_a_mean_of_means_that_is_not_divided_either() -> None:
    check = check_accumulation(mlp(), mean, window(8, 2, 5, 20), each(mean))
    assert_wrong(check, "mean of means", "missing division", "4 times")


def test_micro_batches_that_zero_grad_wipes_out_are_listed() -> None:
    def wiping(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            model.zero_grad()
            mean(model, batch).backward()

    assert_wrong(check_accumulation(mlp(), mean, window(4, 4, 4), wiping), "lost micro-batches", "number 1, 2 left")


def test_a_unit_loss_in_each_micro_batch_shows_as_its_weights() -> None:
    def unit(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            loss = mean(model, batch)
            (loss / loss.detach() / len(micro_batches)).backward()

    assert_wrong(check_accumulation(mlp(), mean, window(4, 4, 4), unit), "wrong weights", "instead of 0.333, 0.333")


def test_a_loss_that_loss_fn_does_not_know_is_another_gradient() -> None:
    def decayed(model: Any, batch: Any) -> Tensor:
        return mean(model, batch) + sum(p.square().sum() for p in model.parameters())

    assert_wrong(check_accumulation(mlp(), mean, window(4, 4), each(decayed, lambda k: 1 / k)), "another gradient")
    assert_right(check_accumulation(mlp(), decayed, window(4, 4)))


def in_batch_negatives(model: Any, batch: Any) -> Tensor:
    left, right_ = (normalize(model(batch[name]), dim=1) for name in ("x", "other"))
    return cross_entropy(left @ right_.T / 0.1, torch.arange(len(left)))


def test_in_batch_negatives_cannot_be_split() -> None:
    batches = [{"x": batch["x"], "other": batch["x"] + 0.1} for batch in window(8, 8, 8)]
    assert_wrong(check_accumulation(mlp(), in_batch_negatives, batches), "batch-coupled", "no split can be exact")


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_norm_is_named_and_the_loop_s_own_mistake_beside_it(norm: type[nn.Module]) -> None:
    model = mlp(norm=nn.BatchNorm1d)
    alone = check_accumulation(model, mean, window(8, 8, 8))
    assert_wrong(alone, "BatchNorm", "no split can be exact", "held fixed the loop is right")
    assert_wrong(check_accumulation(model, mean, window(8, 8, 8), each(mean)), "missing division", "BatchNorm")
    assert_right(check_accumulation(model.eval(), mean, window(8, 8, 8)))


def test_weights_hide_no_batch_norm() -> None:
    check = check_accumulation(mlp(norm=nn.BatchNorm1d), weighted, window(8, 8), right)
    assert_right(check)
    assert "BatchNorm takes its statistics from each micro-batch" in check.cause


# --- right


class Conv(nn.Sequential):
    def __init__(self) -> None:
        layers = (nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Linear(64, 11))
        super().__init__(nn.Unflatten(1, (1, 6)), *layers)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None].expand(-1, 36, 6)[:, ::6])


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Dropout(0.4), nn.Linear(24, 11)), False),
    "cnn": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(8, 11)),
        False,
    ),
    "words": (lambda: nn.Sequential(nn.Embedding(11, 8), nn.Flatten(), nn.Linear(48, 11)), True),
    "gru": (lambda: nn.Sequential(Tokens(), nn.Flatten(), nn.Linear(66, 11)), True),
}
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


def correct(seed: int) -> AccumulationCheck:
    """The check of a random model, split, weighting and dtype under a loop that is right."""
    draw = random.Random(seed)
    build, words = MODELS[draw.choice(list(MODELS))]
    dtype, form = draw.choice(DTYPES), draw.choice(["scalar", "weights", "mean and count", "tally"])
    batches: list[Any] = []
    for size in [draw.randint(1, 9) for _ in range(draw.randint(1, 5))]:
        x = torch.randint(0, 11, (size, 6)) if words else torch.randn(size, 6, dtype=dtype)
        weight = torch.rand(size) * (torch.rand(size) < 0.8) if form in {"weights", "tally"} else torch.ones(size)
        weight[0] = 1.0
        batches.append((x, [torch.randint(0, 11, (size,)), weight]))

    def losses(model: Any, batch: Any) -> Tensor:
        return cross_entropy(model(batch[0]).float(), batch[1][0], reduction="none")

    def loss_fn(model: Any, batch: Any) -> Any:
        made = losses(model, batch)
        if form in {"weights", "tally"}:
            return made, batch[1][1]
        return made.mean() if form == "scalar" else (made.mean(), len(made))

    def loop(model: Any, micro_batches: Any) -> None:
        if form == "tally":
            tally = Tally("weight")
            for batch in micro_batches:
                tally.backward(losses(model, batch), weight=batch[1][1])
            tally.finish(model.parameters())
            return
        total = sum(batch[1][1].sum() for batch in micro_batches)
        for batch in micro_batches:
            ((losses(model, batch) * batch[1][1]).sum() / total).backward()

    return check_accumulation(build().to(dtype), loss_fn, batches, loop)


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_a_hundred_random_correct_windows_raise_no_alarm(first: int) -> None:
    for seed in range(first, first + 10):
        torch.manual_seed(seed)
        assert_right(correct(seed))


def test_the_usual_recipe_is_right_for_equal_micro_batches_of_a_mean() -> None:
    check = check_accumulation(mlp(), mean, window(8, 8, 8, 8))
    assert_right(check)
    assert check.relative_error < 1e-14
    assert check.short is not None
    assert check.short.short is None


def test_dropout_raises_no_alarm_even_where_the_loop_calls_train() -> None:
    def training(model: Any, micro_batches: Any) -> None:
        model.train()
        each(mean, lambda k: 1 / k)(model, micro_batches)

    model = mlp().train()
    check = check_accumulation(model, mean, window(8, 8), training)
    assert_right(check)
    assert check.floor == 0.0
    assert all(module.training for module in model.modules())


def test_one_micro_batch_has_no_half() -> None:
    check = check_accumulation(mlp(), mean, window(8))
    assert_right(check)
    assert check.short is None


def test_frozen_parameters_and_those_that_get_no_gradient_are_no_alarm() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    assert_right(check_accumulation(model, mean, window(4, 4)))
    assert not model[0].weight.requires_grad


def test_a_loop_that_pops_its_labels_finds_them_again() -> None:
    def popping(model: Any, micro_batches: Any) -> None:
        for batch in micro_batches:
            labels = batch.pop("y")
            (cross_entropy(model(batch.pop("x")), labels) / len(micro_batches)).backward()

    batches = window(4, 4)
    assert_right(check_accumulation(mlp(), mean, batches, popping))
    assert [list(batch) for batch in batches] == [["x", "y"], ["x", "y"]]


def test_autocast_is_judged_by_the_precision_that_it_computes_in() -> None:
    def cast(model: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return mean(model, batch)

    batches = window(8, 8, 8, dtype=torch.float32)
    check = check_accumulation(mlp(dtype=torch.float32), cast, batches)
    assert_right(check)
    assert check.relative_error > 2e-5  # it would be an alarm in float32
    assert_wrong(check_accumulation(mlp(dtype=torch.float32), cast, batches, each(cast)), "missing division")


# --- what cannot be judged


@pytest.mark.parametrize("loss_fn", [mean, weighted], ids=["scalar", "weights"])
def test_a_gradient_that_is_no_number_is_never_right(loss_fn: Any) -> None:
    batches = window(4, 4, 4)
    batches[2]["x"][0, 0] = torch.nan
    check = check_accumulation(mlp(), loss_fn, batches)
    assert_wrong(check, "not finite")
    assert check.short is not None
    assert check.short.ok
    assert not check_accumulation(mlp(), lambda model, batch: mean(model, batch) * torch.inf, window(4)).ok


def test_a_loop_that_draws_is_judged_above_its_own_variation_only() -> None:
    def noisy(size: float) -> Any:
        def loss(model: Any, batch: Any) -> Tensor:
            return mean(model, {**batch, "x": batch["x"] + size * torch.randn_like(batch["x"])})

        return loss

    batches = window(64, 64)
    small = check_accumulation(mlp(), mean, batches, each(noisy(0.01), lambda k: 1 / k))
    assert_right(small)
    assert 1e-6 < small.floor < 0.1
    assert "varies" in small.cause
    assert_wrong(check_accumulation(mlp(), mean, batches, each(noisy(0.001))), "missing division")
    large = check_accumulation(mlp(), mean, batches, each(noisy(10.0), lambda k: 1 / k))
    assert_wrong(large, "the loop itself varies by", "nothing below can be judged")


def test_a_loop_without_gradient_and_a_loss_without_one_are_told_apart() -> None:
    assert_wrong(check_accumulation(mlp(), mean, window(4, 4), lambda model, batches: None), "leaves no gradient")
    assert_wrong(check_accumulation(mlp(), lambda m, b: 0 * mean(m, b), window(4, 4)), "nothing to compare")


def test_no_micro_batches_and_nothing_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match="`micro_batches` is empty"):
        check_accumulation(mlp(), mean, [])
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        check_accumulation(mlp().requires_grad_(False), mean, window(4))


def test_padding_that_differs_is_refused_for_a_scalar_and_welcome_with_weights() -> None:
    batches = [{"x": torch.randn(4, width)} for width in (3, 5)]

    def loss(_: Any, batch: Any) -> Tensor:
        return batch["x"].mean(1) * model.weight.sum()

    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r'`batch\["x"\]` cannot be joined'):
        check_accumulation(model, lambda m, b: loss(m, b).mean(), batches)
    assert_right(check_accumulation(model, lambda m, b: (loss(m, b), torch.ones(4)), batches))
    padded = {"x": torch.cat([pad(batches[0]["x"], (0, 2)), batches[1]["x"]])}
    assert not check_accumulation(model, lambda m, b: loss(m, b).mean(), batches, collate=lambda _: padded).ok


# --- gradients made elsewhere


def test_gradients_made_elsewhere_are_judged_and_parts_are_asked_for_only_if_needed() -> None:
    r = {"w": torch.randn(5), "b": torch.randn(2)}

    def never() -> list[dict[str, Tensor]]:
        raise AssertionError("nothing is wrong")

    assert_right(judge({name: x.clone() for name, x in r.items()}, r, Window(4), parts=never))
    parts = [{"w": torch.randn(5), "b": torch.randn(2)} for _ in range(3)]
    of_means = {name: sum(part[name] for part in parts) / 3 for name in r}
    union = {name: 0.5 * parts[0][name] + 0.3 * parts[1][name] + 0.2 * parts[2][name] for name in r}
    assert_wrong(judge(of_means, union, Window(3), parts=lambda: parts), "mean of means", "0.500, 0.300, 0.200")


def test_the_tolerance_is_that_of_the_narrowest_float_and_of_the_device() -> None:
    wide, narrow = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.bfloat16)
    assert (_tolerance([wide], None), _tolerance([wide, narrow], None)) == (1e-9, 3e-2)
    assert (_tolerance([wide], torch.float32), _tolerance([], None)) == (2e-5, 0.0)
    assert _tolerance([wide], torch.float8_e5m2) == 0.1
    assert [_tolerance([x.to("meta")], None) for x in (wide, wide.float(), narrow)] == pytest.approx([5e-8, 1e-3, 3e-2])


def test_what_cancels_to_rounding_is_not_judged() -> None:
    g = torch.randn(50)
    parts = [{"w": g}, {"w": -g + 1e-7 * torch.randn(50)}]
    union = {"w": (parts[0]["w"] + parts[1]["w"]) / 2}
    check = judge({"w": union["w"] + 2e-8 * torch.randn(50)}, union, Window(2), parts=parts)
    assert_wrong(check, "cancel", "nothing can be judged")
