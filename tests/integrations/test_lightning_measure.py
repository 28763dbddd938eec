"""A monitor in real Lightning runs: it says what each window's gradient is, and changes nothing."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from tests.integrations.batches import Batch, equal, linear, ragged, union_gradient
from tests.integrations.modules import Classifier, TallyClassifier, fit
from torch.utils.data import DataLoader

from truestep.integrations.lightning import QUIET, AccumulationMonitor, ShortWindow, TallyCallback
from truestep.loss import Tally

FOUR = {"accumulate_grad_batches": 4}


def kept(batch: Batch) -> Any:
    return (batch[1] != -100).sum()


def warned(batches: list[Batch], callbacks: list[Any], module: Classifier | None = None, **arguments: Any) -> list[str]:
    """What the monitor says aloud in a real run."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = lightning.Trainer(**(QUIET | FOUR | {"accelerator": "cpu", "callbacks": callbacks} | arguments))
        trainer.fit(module or Classifier(), DataLoader(batches, batch_size=None))
    return [str(one.message) for one in said if "AccumulationMonitor" in str(one.message)]


def test_a_last_window_of_two_of_four_is_half_the_mean() -> None:
    monitor = AccumulationMonitor()
    gradients = fit(Classifier(), equal(6), callbacks=[monitor], max_epochs=2, **FOUR)
    seen = [(window.num_micro_batches, window.accumulate_grad_batches, window.factor) for window in monitor.windows]
    assert seen == [(4, 4, 1.0), (2, 4, 0.5)] * 2
    torch.testing.assert_close(gradients[1], monitor.windows[1].factor * union_gradient(linear(), equal(6)[4:]))
    assert all(window.weight_ratios is None for window in monitor.windows)


def test_the_norm_is_that_before_clipping() -> None:
    monitor, module = AccumulationMonitor(), Classifier()
    fit(module, equal(6), callbacks=[monitor], gradient_clip_val=1e-3, **FOUR)
    found = torch.stack([window.grad_norm for window in monitor.windows])
    torch.testing.assert_close(found, torch.stack([gradient.norm() for gradient in module.gradients]))


class Learning(Classifier):
    """Takes real steps, and draws."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return super().training_step((batch[0] + torch.randn_like(batch[0]), batch[1]), batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_a_run_is_the_same_to_the_bit_with_it() -> None:
    ends = []
    for callbacks in ([], [AccumulationMonitor(kept)]):
        torch.manual_seed(0)
        module = Learning()
        gradients = fit(module, ragged(6), callbacks=callbacks, max_epochs=2, gradient_clip_val=0.1, **FOUR)
        ends.append((gradients, module.clipped, module.state_dict(), torch.get_rng_state()))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert not torch.equal(ends[0][2]["net.weight"], linear().weight)


def test_the_ratios_are_what_each_micro_batch_weighs_too_much() -> None:
    monitor, batches = AccumulationMonitor(kept), ragged(6)  # counts 1 2 3 4, then 1 2
    gradients = fit(Classifier(), batches, callbacks=[monitor], **FOUR)
    full, short = (window.weight_ratios for window in monitor.windows)
    assert full is not None
    assert short is not None
    assert full.tolist() == pytest.approx([10 / 4, 10 / 8, 10 / 12, 10 / 16])
    assert short.tolist() == pytest.approx([3 / 4, 3 / 8])
    for gradient, ratios, window in zip(gradients, (full, short), (batches[:4], batches[4:]), strict=True):
        means = [union_gradient(linear(), [batch]) / 4 for batch in window]
        torch.testing.assert_close(sum(means), gradient)
        mended = sum(mean / ratio for mean, ratio in zip(means, ratios, strict=True))
        torch.testing.assert_close(mended, union_gradient(linear(), window))


def test_a_micro_batch_that_was_not_trained_on_has_no_share() -> None:
    monitor = AccumulationMonitor(lambda batch: int(kept(batch)))
    fit(Classifier(skip=2), ragged(4), callbacks=[monitor], **FOUR)
    (window,) = monitor.windows
    assert (window.num_micro_batches, window.factor) == (3, 0.75)
    assert window.weight_ratios is not None
    assert window.weight_ratios.tolist() == pytest.approx([7 / 4, 7 / 8, 7 / 16])


def test_a_window_in_which_nothing_was_trained_on_is_none() -> None:
    monitor, module = AccumulationMonitor(), Classifier()
    monitor.on_before_optimizer_step(SimpleNamespace(**FOUR), module, module.configure_optimizers())
    assert not monitor.windows


def test_behind_the_callbacks_that_mend_windows_it_measures_what_they_left() -> None:
    monitor = AccumulationMonitor(kept)
    gradients = fit(Classifier(), ragged(6), callbacks=[ShortWindow(), monitor], **FOUR)
    assert [window.factor for window in monitor.windows] == [1.0, 1.0]
    short = monitor.windows[1]
    assert short.weight_ratios is not None
    assert short.weight_ratios.tolist() == pytest.approx([3 / 2, 3 / 4])
    torch.testing.assert_close(short.grad_norm, gradients[1].norm())
    tally, monitor = Tally(per="token"), AccumulationMonitor(kept)
    fit(TallyClassifier(tally), ragged(6), callbacks=[TallyCallback(tally), monitor], **FOUR)
    assert [window.weight_ratios.tolist() for window in monitor.windows] == [[1.0] * 4, [1.0] * 2]


@pytest.mark.parametrize("other", [ShortWindow, lambda: TallyCallback(Tally())])
def test_a_callback_that_mends_must_come_before(other: Any) -> None:
    with pytest.raises(ValueError, match=r"`callbacks` must have .* before AccumulationMonitor"):
        fit(Classifier(), equal(2), callbacks=[AccumulationMonitor(), other()])


def test_a_short_window_is_warned_of_once_with_the_remedy() -> None:
    (said,) = warned(equal(6), [AccumulationMonitor(kept)], max_epochs=2)
    assert "2 of 4 micro-batches" in said
    assert "0.500 of their mean" in said
    assert "ShortWindow()" in said


def test_unequal_counts_are_warned_of_once_with_the_remedy() -> None:
    (said,) = warned(ragged(8), [AccumulationMonitor(kept)], max_epochs=2)
    assert "up to 2.500 times" in said
    assert "TallyCallback(tally)" in said


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    tally = Tally(per="token")
    assert warned(equal(8), [AccumulationMonitor(kept)]) == []
    mended = [TallyCallback(tally), AccumulationMonitor(kept)]
    assert warned(ragged(6), mended, TallyClassifier(tally)) == []


def test_a_micro_batch_that_is_all_ignored_does_not_count_as_unequal() -> None:
    batches = equal(4)
    batches[1] = (batches[1][0], torch.full_like(batches[1][1], -100))
    monitor = AccumulationMonitor(kept)
    (said,) = warned(batches, [monitor])  # the others have a third of the terms, and a quarter of the weight
    assert "up to 1.333 times" in said


class Log(DummyLogger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append(metrics)


def test_factor_and_norm_go_to_the_run_s_logger() -> None:
    log, module = Log(), Classifier()
    fit(module, equal(6), callbacks=[AccumulationMonitor()], logger=log, log_every_n_steps=1, **FOUR)
    rows = [row for row in log.rows if "accumulation_factor" in row]
    assert [row["accumulation_factor"] for row in rows] == [1.0, 0.5]
    assert [row["accumulated_grad_norm"] for row in rows] == pytest.approx([float(g.norm()) for g in module.gradients])


def test_manual_optimization_is_refused() -> None:
    module = Classifier()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="automatic_optimization"):
        fit(module, equal(4), callbacks=[AccumulationMonitor()])
