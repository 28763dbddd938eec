"""Compares the gradient that a transformers `Trainer` accumulates with that of the whole batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import torch

from truestep.integrations._labels import Per
from truestep.integrations._rehearsal import Batch, Rehearsal, rehearsal
from truestep.integrations._trainer import (
    NO_DECODER_INPUTS,
    lacks_decoder_inputs,
    require_trainer,
    takes_labels_away,
)
from truestep.loss.accumulation._accumulation import AccumulationCheck, judge
from truestep.loss.accumulation._evidence import Window, is_close

PRECISION: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
SHIFTED: Final = (
    "shifted labels that are counted: the Trainer divides by {counted:.0f} labels, of which the head, which shifts "
    "them, predicts {total:.0f}"
)
IGNORE_FIRST: Final = (
    "set labels[:, 0] = -100 in the collator, or truestep.integrations.transformers.Loss().attach(trainer)"
)


def check(trainer: Any, *, batches: Iterable[Batch] | None = None, per: Per = "token") -> AccumulationCheck:
    r"""Whether the gradient that a `Trainer` accumulates over a window is that of the window as one batch.

    The window is played by the Trainer's own `get_batch_samples` and `training_step`, its first half too, as the short
    window at an epoch's end. The reference is :math:`\sum_i n_i \nabla L_i / \sum_i n_i` over all micro-batches and
    ranks, with :math:`L_i` a micro-batch's own mean loss and :math:`n_i` its kept targets: labels that are not -100,
    without the first of each row where it turns out to have no part in the loss (heads that shift). Every micro-batch
    is collated once and meets the same random numbers in all passes, so that dropout, masks drawn by the collator and
    layer drop raise no alarm. What a loss couples within a micro-batch (BatchNorm in training, in-batch negatives)
    stays in the reference as it is. `train` is not called, and later training is the same to the bit.

    Args:
        trainer: A transformers `Trainer`, or a subclass's, on one device or under plain data parallelism
            (`torchrun`, where every rank must call this).
        batches: The collated micro-batches of one window, for a training set that is a stream; by default the first
            `gradient_accumulation_steps` of `trainer.get_train_dataloader()`.
        per: What the loss is meant to be a mean of: kept targets, or rows (each row averaged first).

    Returns:
        ratio, cosine, relative error, the cause in words, and the remedy; `print` it.

    Raises:
        TypeError: No Trainer.
        ValueError: The training set is a stream or is not there, the Trainer shards the model or the sequence, or it
            takes the labels away from an encoder-decoder that needs them.

    Example:
        >>> from tempfile import gettempdir
        >>> from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=8))
        >>> rows = [{"input_ids": torch.tensor([i, 1]), "labels": i % 2} for i in range(8)]
        >>> window = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
        >>> arguments = TrainingArguments(gettempdir(), **window, use_cpu=True, report_to=[], log_level="error")
        >>> found = check(Trainer(model, arguments, train_dataset=rows))
        >>> f"{found.ratio:.3f}", found.cause.partition(":")[0]
        ('4.000', 'missing division')

    References:
        transformers 5.23, `Trainer.training_step`: the loss is not divided by the number of micro-batches if the
        model's `forward` takes `**kwargs`, whether or not it uses the `num_items_in_batch` among them.
    """
    require_trainer(trainer)
    _refuse(trainer)
    with rehearsal(trainer):
        window = _first_window(trainer) if batches is None else list(batches)
        if not window:
            msg = "`batches` must hold at least one micro-batch"
            raise ValueError(msg)
        if takes_labels_away(trainer) and any(lacks_decoder_inputs(trainer.model, batch) for batch in window):
            raise ValueError(NO_DECODER_INPUTS)
        played = Rehearsal(trainer, per)
        half = window[: len(window) // 2]
        return _judged(played, window, _judged(played, half, None) if half else None)


def _judged(played: Rehearsal, window: list[Batch], short: AccumulationCheck | None) -> AccumulationCheck:
    shift = played.shifts(window)
    counts, unshifted = (played.counts(window, shift=by) for by in (shift, False))
    total, counted = float(played.total(counts)), float(played.total(unshifted))
    lengths = {x.shape[1] for batch in window if isinstance(x := batch.get("labels"), torch.Tensor) and x.dim() > 1}
    found = judge(
        played.accumulated(window),
        played.reference(window, counts),
        Window(int(played.total([torch.tensor(len(window))])), weight=total, lengths=tuple(sorted(lengths))),
        again=played.accumulated(window),
        parts=lambda: played.means(window, counts),
        short=short,
        precision=PRECISION.get(played.mixed_precision),
    )
    if found.ok:
        return found
    if shift and is_close(found.factor, total / counted, found.tolerance) and found.cosine > 1 - found.tolerance:
        return replace(found, cause=SHIFTED.format(counted=counted, total=total), remedy=IGNORE_FIRST)
    return replace(found, remedy=played.remedy) if "Tally" in found.remedy else found


def _first_window(trainer: Any) -> list[Batch]:
    if trainer.train_dataset is None:
        msg = (
            "`batches` must be given, since `trainer` has no train_dataset: a list of gradient_accumulation_steps "
            "collated micro-batches"
        )
        raise ValueError(msg)
    if isinstance(trainer.train_dataset, torch.utils.data.IterableDataset) or not hasattr(
        trainer.train_dataset, "__len__"
    ):
        msg = (
            "`batches` must be given, since the training set is a stream and what the check took from it would be lost:"
            " a list of gradient_accumulation_steps collated micro-batches"
        )
        raise ValueError(msg)
    return list(islice(trainer.get_train_dataloader(), trainer.args.gradient_accumulation_steps))


def _refuse(trainer: Any) -> None:
    """Raise for a Trainer that does not run whole models on whole batches, one device a process."""
    sizes = [getattr(trainer, name, int)() for name in ("get_tp_size", "get_cp_size", "get_sp_size")]
    found = {
        "DataParallel": trainer.args.n_gpu > 1,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP": trainer.is_fsdp_enabled,
        "tensor, context or sequence parallelism": max(sizes) > 1,
        f"optim={trainer.args.optim}": "lomo" in str(trainer.args.optim).lower(),
    }
    names = [name for name, present in found.items() if present]
    if names:
        msg = f"`trainer` must hold a whole model on one device a process; found {', '.join(names)}: check it without"
        raise ValueError(msg)
