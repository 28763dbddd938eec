"""transformers: is a `Trainer`'s accumulated gradient that of the whole batch, and a loss that makes it so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import cross_entropy

from truestep.integrations._labels import IGNORED, Per, kept_targets, known, num_targets
from truestep.integrations._trainer import MAKES, require_trainer, with_decoder_inputs
from truestep.integrations._trainer_check import check
from truestep.loss._reduction import unreduced

__all__ = ["Loss", "check"]

UnreducedLoss = Callable[[Tensor, Tensor], Tensor]
COUNTER: Final = "_get_num_items_in_batch"
LOSS: Final = "compute_loss"


class Loss:
    r"""Mean loss of a window of micro-batches, for `Trainer(compute_loss_func=Loss())`.

    For one micro-batch it is :math:`\sum_i \ell_i / N` with the window's denominator N, which the Trainer counts over
    all micro-batches and ranks and hands over. Beside a loss function it divides no further, and it multiplies by the
    number of processes, which the average over ranks undoes. The losses are the cross entropy of `outputs.logits` and
    integer labels unless `losses` says otherwise, in float32 at least.

    A window whose labels are all ignored gives a loss of 0 and zero gradients.

    Args:
        per: "token": mean over kept targets. "item": each row averaged over its kept targets first.
        shift: Whether logits at position t are for label t + 1. By default true for outputs of causal language
            models (`CausalLMOutput...`).
        label_smoothing: As in `torch.nn.functional.cross_entropy`.
        losses: From logits and labels to unreduced losses of the labels' shape, for labels that are not classes:
            `lambda logits, labels: (logits.squeeze(-1) - labels) ** 2`. Ignored labels come as 0.

    Note: Where the Trainer's count is not this loss's denominator, `attach` it: for per="item" with several targets a
        row; with `average_tokens_across_devices=False`; for causal heads whose first label is kept and whose
        `loss_type` is not set (GPT2LMHeadModel), since the Trainer then counts that label too; and for
        encoder-decoders, from which the Trainer takes the labels away: `attach` makes their `decoder_input_ids`
        (`DataCollatorForSeq2Seq(model=model)` does too; T5 stops without, BART trains on the wrong ones).

    Example:
        >>> window, labels = torch.randn(6, 3), torch.tensor([0, 2, -100, 1, 1, 0])
        >>> loss = Loss()
        >>> parts = [loss({"logits": window[s]}, labels[s], 5) for s in (slice(2), slice(2, 6))]
        >>> torch.allclose(sum(parts), torch.nn.functional.cross_entropy(window, labels))
        True
    """

    def __init__(
        self,
        per: Per = "token",
        *,
        shift: bool | None = None,
        label_smoothing: float = 0.0,
        losses: UnreducedLoss | None = None,
    ) -> None:
        self.per: Per = known(per)
        self._shift, self._smoothing, self._losses = shift, label_smoothing, losses
        self._counts_shifted = bool(shift)
        self._trainer: Any = None
        self._loss_before: Any = None
        self._compute_before: Any = None  # what the trainer itself held under this name

    def __call__(
        self, outputs: Any, labels: Num[Tensor, "*lead"] | None, num_items_in_batch: int | float | Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Sum of this micro-batch's losses over the window's denominator, or over its own if none is told.

        Raises:
            ValueError: No labels; labels that are no classes without `losses`; or per="item" with several targets a
                row, not attached.
        """
        if labels is None:
            msg = "`labels` must be in the batch under this name: the Trainer takes them out and passes them on"
            raise ValueError(msg)
        if self.per == "item" and labels.dim() > 1 and self._trainer is None and num_items_in_batch is not None:
            msg = (
                "per='item' needs the window's number of rows, the Trainer counts targets: Loss('item').attach(trainer)"
            )
            raise ValueError(msg)
        if getattr(outputs, "aux_loss", None) is not None:
            warnings.warn("`outputs.aux_loss` (routers' balance) is not part of this loss", stacklevel=2)
        losses, kept = self._unreduced(outputs, labels)
        sums = unreduced(losses, kept, None, self.per)
        num = torch.as_tensor(sums.weight if num_items_in_batch is None else num_items_in_batch, device=losses.device)
        if num.dim():
            msg = (
                "`num_items_in_batch` must be one number; DataParallel has one a device: start one process each instead"
            )
            raise ValueError(msg)
        return (sums.loss / num.clamp_min(torch.finfo(torch.float32).tiny)).to(losses.dtype)

    def attach(self, trainer: Any) -> Self:
        """Become the loss of `trainer`, and have it count this loss's own denominator; undone by `close`.

        An encoder-decoder also gets the `decoder_input_ids` that it would have made of the labels.

        Raises:
            TypeError: No Trainer.
            ValueError: A Trainer that smooths labels itself, or does not hold whole models and whole batches.
        """
        require_trainer(trainer)
        if trainer.args.label_smoothing_factor and not self._smoothing:
            msg = (
                "`label_smoothing_factor` has no effect beside a loss function: give Loss(label_smoothing=...) instead"
            )
            raise ValueError(msg)
        copies = max(trainer.get_tp_size(), trainer.get_cp_size(), trainer.get_sp_size(), trainer.args.n_gpu)
        if copies > 1 or not hasattr(trainer, COUNTER):
            msg = f"`trainer` must have whole models, one device a process, and `{COUNTER}` as transformers 5 has"
            raise ValueError(msg)
        if self._shift is None:
            self._counts_shifted = _shifts(trainer.model)
        self._trainer, self._loss_before = trainer, trainer.compute_loss_func
        trainer.compute_loss_func = self
        setattr(trainer, COUNTER, self._count)
        self._compute_before = vars(trainer).get(LOSS)
        if hasattr(trainer.model, MAKES):
            setattr(trainer, LOSS, _feeding_the_decoder(trainer))
        return self

    def close(self) -> None:
        """Give the trainer its own loss and count back."""
        if self._trainer is not None:
            delattr(self._trainer, COUNTER)
            vars(self._trainer).pop(LOSS, None)
            if self._compute_before is not None:
                setattr(self._trainer, LOSS, self._compute_before)
            self._trainer.compute_loss_func = self._loss_before
            self._trainer = None

    def _count(self, batch_samples: list[Mapping[str, Any]], device: torch.device) -> Tensor | None:
        """The window's denominator over all ranks, divided by their number if the Trainer will not multiply by it."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = [num_targets(batch, self.per, self._counts_shifted).to(device) for batch in batch_samples]
        total = torch.stack(counts).sum()
        world = self._trainer.args.world_size
        if world > 1:
            dist.all_reduce(total)
        return total if self._trainer.args.average_tokens_across_devices else total / world

    def _unreduced(self, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, and True where they count."""
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if labels.dim() > 1 and self._shifted(outputs):
            logits, kept, labels = logits[..., :-1, :], kept_targets(labels, shift=True), labels[..., 1:]
        else:
            kept = kept_targets(labels, shift=False)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        if self._losses is not None:
            return self._losses(logits, labels.where(kept, 0)), kept
        if labels.is_floating_point():
            msg = "`labels` are floating: pass losses=, a function from logits and labels to unreduced losses"
            raise ValueError(msg)
        flat = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1).to(logits.device),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self._smoothing,
        )
        return flat.view(labels.shape), kept.to(flat.device)

    def _shifted(self, outputs: Any) -> bool:
        """Whether to shift: as told, or as the outputs' name says if the Trainer counts in the same way."""
        if self._shift is not None:
            return self._shift
        name = type(outputs).__name__
        shifted = "CausalLM" in name
        if "Output" not in name or (self._trainer is not None and shifted != self._counts_shifted):
            msg = f"`shift` must be given for outputs of type {name}: do logits at position t predict label t + 1?"
            raise ValueError(msg)
        return shifted


def _feeding_the_decoder(trainer: Any) -> Callable[..., Any]:
    """The trainer's `compute_loss`, of batches with decoder inputs."""
    before = trainer.compute_loss

    def compute_loss(model: Any, inputs: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
        return before(model, with_decoder_inputs(trainer.model, inputs), *arguments, **keywords)

    return compute_loss


def _shifts(model: Any) -> bool:
    """Whether the model is a decoder's language model: what the Trainer's label smoother goes by."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        msg = "attaching to a Trainer needs transformers: pip install 'truestep[transformers]'"
        raise ImportError(msg) from error

    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
