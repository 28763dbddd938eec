"""Lightning's last window is short: what the callbacks make of it, in real training runs."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.integrations.batches import cross_entropy, equal, linear, mean_loss, ragged, union_gradient
from tests.integrations.modules import Classifier, TallyClassifier, fit
from torch import Tensor

from truestep.integrations.lightning import ShortWindow, TallyCallback, check
from truestep.loss import Tally

FOUR = {"accumulate_grad_batches": 4}


def errors(gradients: list[Tensor], batches: list[Any], *cuts: int) -> list[float]:
    """Relative error of each step's gradient, the windows being `batches` cut at `cuts`."""
    starts = [0, *cuts]
    windows = [batches[a:b] for a, b in zip(starts, [*cuts, len(batches)], strict=True)]
    expected = [union_gradient(linear(), window) for window in windows]
    return [float((g - e).norm() / e.norm()) for g, e in zip(gradients, expected, strict=True)]


def test_without_the_callback_the_short_window_s_gradient_is_half() -> None:
    gradients, batches = fit(Classifier(), equal(6), **FOUR), equal(6)
    torch.testing.assert_close(gradients[0], union_gradient(linear(), batches[:4]))
    torch.testing.assert_close(gradients[1], union_gradient(linear(), batches[4:]) * 2 / 4)


def test_with_it_every_window_s_gradient_is_the_union_s() -> None:
    gradients = fit(Classifier(), equal(6), callbacks=[ShortWindow()], **FOUR)
    assert max(errors(gradients, equal(6), 4)) < 1e-14


def test_full_windows_are_not_touched() -> None:
    left, right = (fit(Classifier(), equal(8), callbacks=own, **FOUR) for own in ([], [ShortWindow()]))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_every_epoch_begins_a_window() -> None:
    gradients = fit(Classifier(), equal(6), callbacks=[ShortWindow()], max_epochs=2, **FOUR)
    assert max(errors(gradients, equal(6) + equal(6), 4, 6, 10)) < 1e-14


def test_clipping_comes_after() -> None:
    module = Classifier()
    fit(module, equal(6), callbacks=[ShortWindow()], gradient_clip_val=1e-3, **FOUR)
    assert max(errors(module.gradients, equal(6), 4)) < 1e-14
    assert [float(g.norm()) for g in module.clipped] == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_a_training_step_that_returns_none_has_no_share_in_the_mean() -> None:
    batches = equal(4)
    gradients = fit(Classifier(skip=2), batches, callbacks=[ShortWindow()], **FOUR)
    assert max(errors(gradients, batches[:2] + batches[3:])) < 1e-14


def test_the_short_window_is_mended_in_mixed_precision_too() -> None:
    gradients = fit(Classifier(torch.float32), equal(6), callbacks=[ShortWindow()], precision="bf16-mixed", **FOUR)
    expected = union_gradient(linear(), equal(6)[4:]).float()
    torch.testing.assert_close(gradients[1], expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("num", [1, 4])
def test_a_tally_is_exact_for_ragged_and_short_windows(num: int) -> None:
    tally, batches = Tally(per="token"), ragged(6)
    callback = TallyCallback(tally)
    gradients = fit(TallyClassifier(tally), batches, callbacks=[callback], accumulate_grad_batches=num)
    assert max(errors(gradients, batches, *range(num, 6, num))) < 1e-14
    assert callback.window is not None
    union = (torch.cat([x for x, _ in batches[-2:]]), torch.cat([y for _, y in batches[-2:]]))
    if num == 4:
        torch.testing.assert_close(callback.window.mean, mean_loss(linear(), union).detach())


def test_a_mean_of_means_is_not_exact_for_ragged_windows() -> None:
    assert max(errors(fit(Classifier(), ragged(6), callbacks=[ShortWindow()], **FOUR), ragged(6), 4)) > 0.05


def test_the_tally_s_reference_is_saved_with_the_run() -> None:
    tally, fresh = Tally(scale="ref"), Tally(scale="ref")
    callback = TallyCallback(tally)
    fit(TallyClassifier(tally), equal(4), callbacks=[callback])
    TallyCallback(fresh).load_state_dict(callback.state_dict())
    assert tally.state_dict()["reference"] is not None
    torch.testing.assert_close(fresh.state_dict()["reference"], tally.state_dict()["reference"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scale", "fused", "refused"), [("ngd", True, True), ("ngd", False, False), ("mean", True, False)]
)
def test_a_norm_of_scaled_gradients_is_refused(scale: Any, fused: bool, refused: bool) -> None:
    optimizer = torch.optim.SGD(linear().parameters(), lr=0.1, fused=fused)
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), optimizers=[optimizer])
    callback = TallyCallback(Tally(scale=scale))
    with pytest.raises(ValueError, match="fused=False") if refused else nullcontext():
        callback.on_train_start(trainer, None)
    assert callback.window is None


def test_the_check_sees_the_short_window_and_that_it_is_mended() -> None:
    found = check(Classifier(), cross_entropy, equal(4), **FOUR)
    assert found.ratio == pytest.approx(1.0, abs=1e-12)
    assert found.short is not None
    assert found.short.ratio == pytest.approx(0.5, abs=1e-12)
    assert not found.ok
    assert "short window" in found.cause
    assert check(Classifier(), cross_entropy, equal(4), callbacks=[ShortWindow()], **FOUR).ok


def test_the_check_looks_before_clipping() -> None:
    assert check(Classifier(), cross_entropy, equal(2), accumulate_grad_batches=2, gradient_clip_val=1e-3).ratio == 1


def test_the_check_leaves_the_module_as_it_was() -> None:
    module = Classifier()
    before, weights, state = dict(vars(module)), module.net.weight.clone(), torch.get_rng_state()
    check(module, cross_entropy, equal(4), **FOUR)
    assert vars(module) == before
    assert torch.equal(module.net.weight, weights)
    assert module.net.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_manual_optimization_is_refused() -> None:
    module = Classifier()
    module.automatic_optimization = False
    for call in (
        lambda: check(module, cross_entropy, equal(4)),
        lambda: fit(module, equal(4), callbacks=[ShortWindow()]),
        lambda: fit(module, equal(4), callbacks=[TallyCallback(Tally())]),
    ):
        with pytest.raises(ValueError, match="automatic_optimization"):
            call()
