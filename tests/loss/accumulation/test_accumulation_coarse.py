"""Mistakes keep their names where gradients are coarse or vary, and loops that rescale, clip or read their own data."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from tests.loss.accumulation.loops import each, mean, mlp, weighted, window
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from truestep.loss import AccumulationCheck, Tally, check_accumulation


def assert_named(check: AccumulationCheck, *words: str) -> None:
    assert not check.ok, str(check)
    assert check.judged
    assert all(word in check.cause for word in words), check.cause
    assert check.remedy


# --- coarse and varying gradients


def cast(model: Any, batch: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return mean(model, batch)


def weights_of_their_own(loss: Any) -> Any:
    def loop(model: Any, micro_batches: Sequence[Any]) -> None:
        for weight, batch in zip((1, 3, 6, 1), micro_batches, strict=False):
            (loss(model, batch) * weight / len(micro_batches)).backward()

    return loop


def clipping_each(loss: Any) -> Any:
    def loop(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            (loss(model, batch) / len(micro_batches)).backward()
            clip_grad_norm_(model.parameters(), 0.15)

    return loop


COARSE = {
    "float32": (mean, torch.float32),
    "bfloat16": (mean, torch.bfloat16),
    "autocast": (cast, torch.float32),
}


@pytest.mark.parametrize("form", COARSE)
@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (weights_of_their_own, ("wrong weights", "count 0.2")),
        (clipping_each, ("wrong weights",)),
        (each, ("missing division",)),
        (lambda loss: each(loss, lambda _: 1 / 4), ("short window", "divides by 4")),
    ],
    ids=["weights", "clipping", "added", "short"],
)
def test_mistakes_have_the_same_names_in_any_precision(loop: Any, words: tuple[str, ...], form: str) -> None:
    loss, dtype = COARSE[form]
    check = check_accumulation(mlp(dtype=dtype), loss, window(8, 8, 8, 8, dtype=dtype), loop(loss))
    assert_named(check, *words)


@pytest.mark.parametrize("form", COARSE)
def test_a_coupled_loss_is_named_in_any_precision(form: str) -> None:
    _, dtype = COARSE[form]

    def contrastive(model: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=form == "autocast"):
            z = model(batch["x"])
            return cross_entropy(0.3 * (z @ z.T) + 5 * torch.eye(len(z), dtype=z.dtype), torch.arange(len(z)))

    assert_named(
        check_accumulation(mlp(dtype=dtype), contrastive, window(4, 4, 4, 4, dtype=dtype)),
        "batch-coupled",
        "no split can be exact",
    )


@pytest.mark.parametrize(("divisor", "words"), [(1, "missing division"), (8, "short window: the loop divides by 8")])
def test_a_loop_that_varies_by_a_tenth_still_has_its_factor_named(divisor: int, words: str) -> None:
    def noisy(model: Any, batch: Any) -> Tensor:
        return mean(model, {**batch, "x": batch["x"] + 0.05 * torch.randn_like(batch["x"])})

    batches = window(8, 8, 8, 8, dtype=torch.float32)
    check = check_accumulation(mlp(dtype=torch.float32), mean, batches, each(noisy, lambda _: 1 / divisor))
    assert 0.02 < check.floor < 0.16
    assert_named(check, words)


# --- loops that rescale on purpose


def tallied(scale: Literal["mean", "ref", "unit", "sqrt", "ngd"], tally: Tally | None = None) -> Any:
    def loop(model: Any, micro_batches: Sequence[Any]) -> None:
        own = tally or Tally("item", scale)
        for batch in micro_batches:
            own.backward(weighted(model, batch)[0])
        own.finish(model.parameters())

    return loop


@pytest.mark.parametrize("loss_fn", [mean, weighted], ids=["scalar", "weights"])
@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("ref", ("divided by the loss itself", '"ref"', "the direction is right")),
        ("unit", ("divided by the loss itself", '"unit"', "the direction is right")),
        ("sqrt", ("divided by its root", '"sqrt"', "the direction is right")),
        ("ngd", ("clipped", "has norm 1;", "its direction is right")),
    ],
)
def test_a_tally_that_rescales_the_step_is_told_so(loss_fn: Any, scale: Any, words: tuple[str, ...]) -> None:
    batches = window(4, 2, 6, 4)
    check = check_accumulation(mlp(), loss_fn, batches, tallied(scale))
    assert_named(check, *words)
    assert 'scale="mean"' in check.remedy
    assert check_accumulation(mlp(), loss_fn, batches, tallied("mean")).ok


def test_a_reference_of_earlier_windows_is_a_constant_factor() -> None:
    model, old, batches = mlp(), Tally("item", "ref"), window(4, 2, 6, 4)
    for batch in window(*[4] * 25):
        old.backward(3 * weighted(model, batch)[0])
        old.finish(model.parameters())
    check = check_accumulation(model, mean, batches, tallied("ref", old))
    assert_named(check, "a constant factor")
    assert 'scale="ref"' in check.remedy


def test_clipping_at_the_end_is_named_by_the_equal_norms() -> None:
    def clipped(model: Any, micro_batches: Sequence[Any]) -> None:
        each(mean, lambda k: 1 / k)(model, micro_batches)
        clip_grad_norm_(model.parameters(), 0.05)

    check = check_accumulation(mlp(), mean, window(8, 8, 8, 8), clipped)
    assert_named(check, "clipped", "norm 0.05", "its direction is right")
    assert check.remedy.startswith("check the loop up to and without clipping")


def scaled(*, undone: bool, divided: bool = True) -> Any:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    def loop(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            loss: Any = scaler.scale(mean(model, batch))
            (loss / (len(micro_batches) if divided else 1)).backward()
        for p in model.parameters() if undone else ():
            p.grad.div_(scaler.get_scale())

    return loop


def test_what_is_advised_for_a_grad_scaler_makes_the_check_right() -> None:
    batches = window(8, 8, 8, 8)
    check = check_accumulation(mlp(), mean, batches, scaled(undone=False))
    assert_named(check, "65536 times", "a power of two")
    assert "divide `.grad` by `scaler.get_scale()` at the end of `backward`" in check.remedy
    assert check_accumulation(mlp(), mean, batches, scaled(undone=True)).ok


def test_a_grad_scaler_does_not_hide_a_missing_division() -> None:
    check = check_accumulation(mlp(), mean, window(8, 8, 8, 8), scaled(undone=False, divided=False))
    assert_named(check, "65536 times", "missing division")
    assert "divide each loss by 4" in check.remedy


# --- halves, loaders, ignored targets


def test_a_first_half_without_any_kept_target_is_left_out() -> None:
    batches = [{**batch, "weight": torch.full((4,), float(i > 1))} for i, batch in enumerate(window(4, 4, 4, 4))]

    def divided(model: Any, micro_batches: Sequence[Any]) -> None:
        count = int(sum(batch["weight"].sum() for batch in micro_batches))
        for batch in micro_batches:
            losses, weights = weighted(model, batch)
            ((losses * weights).sum() * (1 / count)).backward()  # 1/0 raises where no target is kept

    check = check_accumulation(mlp(), weighted, batches, divided)
    assert check.ok, str(check)
    assert check.short is None


def mean_of_kept(model: Any, batch: Any) -> Tensor:
    kept = batch["y"] != -100
    losses = cross_entropy(model(batch["x"]), batch["y"].clamp_min(0), reduction="none")
    return (losses * kept).sum() / kept.sum()


@pytest.mark.parametrize("loss_fn", [mean, mean_of_kept], ids=["zero", "nan"])
def test_a_first_half_of_ignored_labels_only_is_left_out(loss_fn: Any) -> None:
    batches = window(4, 4, 4, 4)
    for batch in batches[:2]:
        batch["y"].fill_(-100)

    def loop(model: Any, micro_batches: Sequence[Any]) -> None:
        count = sum((batch["y"] != -100).sum() for batch in micro_batches)
        for batch in micro_batches:
            (cross_entropy(model(batch["x"]), batch["y"], reduction="sum") / count).backward()

    check = check_accumulation(mlp(), loss_fn, batches, loop)
    assert check.ok, str(check)
    assert check.short is None


def test_a_first_half_that_is_no_number_like_the_whole_is_shown() -> None:
    batches = window(4, 4, 4, 4)
    batches[0]["x"][0, 0] = torch.nan
    check = check_accumulation(mlp(), mean, batches)
    assert check.judged
    assert check.short is not None
    assert check.short.cause.startswith("not finite")


def test_a_window_without_any_kept_target_is_not_judged() -> None:
    batches = [{**batch, "weight": torch.zeros(4)} for batch in window(4, 4)]
    check = check_accumulation(mlp(), weighted, batches)
    assert not check.ok
    assert not check.judged
    assert "no target is kept" in check.cause


def test_a_loop_over_a_loader_of_its_own_is_named() -> None:
    own, other = window(4, 4, 4, 4), window(4, 4, 4, 4)

    def deaf(model: Any, _: Sequence[Any]) -> None:
        each(mean, lambda k: 1 / k)(model, own)

    for batches in (own, other):
        check = check_accumulation(mlp(), mean, batches, deaf)
        assert_named(check, "the loop ignores its argument")
        assert "`micro_batches` that it is given" in check.remedy


def test_a_loop_over_its_first_micro_batches_is_no_loader_of_its_own() -> None:
    def first(model: Any, micro_batches: Sequence[Any]) -> None:
        each(mean)(model, micro_batches[:2])

    assert_named(check_accumulation(mlp(), mean, window(4, 4, 4, 4), first), "lost micro-batches", "number 3, 4")


def ignoring(*kept: int) -> list[Any]:
    """Micro-batches of 8 items, of which the last ones are ignored."""
    batches = window(*[8] * len(kept))
    for n, batch in zip(kept, batches, strict=True):
        batch["y"][n:] = -100
    return batches


def test_ignored_targets_that_are_counted_are_named_with_both_counts() -> None:
    def counting(model: Any, micro_batches: Sequence[Any]) -> None:
        for batch in micro_batches:
            losses = cross_entropy(model(batch["x"]), batch["y"], reduction="none")
            (losses.mean() / len(micro_batches)).backward()

    check = check_accumulation(mlp(), mean, ignoring(5, 3, 8, 6), counting)
    assert check.ratio == pytest.approx(22 / 32)
    assert_named(check, "looks like ignored targets that are counted", "22/32")
    assert "ignored" in check.remedy


def test_batch_norm_beside_a_loader_of_its_own_is_still_named() -> None:
    model, own = mlp(norm=nn.BatchNorm1d), window(8, 8, 8, 8)
    check = check_accumulation(model, mean, own, lambda m, _: each(mean, lambda k: 1 / k)(m, own))
    assert "BatchNorm" in check.cause
    assert not check.ok
