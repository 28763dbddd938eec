"""What a transformers `Trainer` is, and what it keeps from an encoder-decoder beside a loss function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

INPUTS: Final = ("decoder_input_ids", "decoder_inputs_embeds")
MAKES: Final = "prepare_decoder_input_ids_from_labels"
NO_DECODER_INPUTS: Final = (
    "`trainer` takes the labels away from its model, since the loss is computed outside, and this encoder-decoder "
    "makes `decoder_input_ids` from them: truestep.integrations.transformers.Loss().attach(trainer) makes those, or "
    "DataCollatorForSeq2Seq(tokenizer, model=model)"
)


def require_trainer(trainer: Any) -> None:
    """Raise for what is no `Trainer`.

    Raises:
        TypeError: With what it is.

    Example:
        >>> require_trainer("bert")
        Traceback (most recent call last):
        TypeError: `trainer` must be a transformers.Trainer, found str
    """
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(trainer).__mro__}
    if "transformers.Trainer" not in names:
        msg = f"`trainer` must be a transformers.Trainer, found {type(trainer).__name__}"
        raise TypeError(msg)


def lacks_decoder_inputs(model: Any, batch: Mapping[str, Any]) -> bool:
    """Whether the model would make its decoder's inputs from the batch's labels, and so cannot do without them."""
    return "labels" in batch and hasattr(model, MAKES) and not any(batch.get(name) is not None for name in INPUTS)


def with_decoder_inputs(model: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch, with `decoder_input_ids` made by the model from the labels if it lacks them.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(prepare_decoder_input_ids_from_labels=lambda labels: [0, *labels[:-1]])
        >>> with_decoder_inputs(model, {"labels": [5, 6, 7]})
        {'labels': [5, 6, 7], 'decoder_input_ids': [0, 5, 6]}
    """
    if not lacks_decoder_inputs(model, batch):
        return batch
    return {**batch, "decoder_input_ids": getattr(model, MAKES)(labels=batch["labels"])}


def takes_labels_away(trainer: Any) -> bool:
    """Whether the trainer's own `compute_loss` calls the model without labels."""
    own = "compute_loss" not in vars(trainer) and type(trainer).compute_loss.__module__ == "transformers.trainer"
    return own and (trainer.compute_loss_func is not None or trainer.label_smoother is not None)
