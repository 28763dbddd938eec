"""What a Trainer is, and which batches an encoder-decoder cannot do with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import trainers
from tests.integrations.trainers import classes, classifier, sentences
from transformers import Trainer

from truestep.integrations._trainer import lacks_decoder_inputs, require_trainer, takes_labels_away, with_decoder_inputs

BATCH = {key: torch.stack([row[key] for row in sentences(2)]) for key in ("input_ids", "labels")}


class Derived(Trainer):
    """Someone's own, with the loss of the package."""


class OwnLoss(Trainer):
    """Someone's own, with a loss of its own."""

    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        return super().compute_loss(*arguments, **keywords)


def test_a_subclass_is_a_trainer_and_a_model_is_none(make: Callable[..., Trainer]) -> None:
    model = classifier()
    require_trainer(make(model, classes(), kind=Derived))
    with pytest.raises(TypeError, match="found BertForSequenceClassification"):
        require_trainer(model)


def test_the_decoder_s_inputs_are_the_labels_shifted_by_the_model() -> None:
    model = trainers.t5()
    found = with_decoder_inputs(model, BATCH)["decoder_input_ids"]
    assert bool((found[:, 0] == 0).all())
    kept = BATCH["labels"][:, :-1]
    torch.testing.assert_close(found[:, 1:], kept.where(kept != -100, 0))
    assert "decoder_input_ids" not in BATCH


@pytest.mark.parametrize("name", ["decoder_input_ids", "decoder_inputs_embeds"])
def test_inputs_that_are_there_are_kept(name: str) -> None:
    batch = BATCH | {name: BATCH["input_ids"]}
    assert with_decoder_inputs(trainers.t5(), batch) is batch
    assert lacks_decoder_inputs(trainers.t5(), BATCH | {name: None})


def test_only_encoder_decoders_with_labels_lack_anything() -> None:
    assert lacks_decoder_inputs(trainers.t5(), BATCH)
    assert not lacks_decoder_inputs(trainers.t5(), {"input_ids": BATCH["input_ids"]})
    assert not lacks_decoder_inputs(trainers.gpt2(), BATCH)


def test_labels_are_taken_away_by_a_loss_function_and_by_smoothing(make: Callable[..., Trainer]) -> None:
    def function(*_: Any, **__: Any) -> None:
        raise AssertionError

    cases = {"none": {}, "function": {"loss": function}, "smoothing": {"label_smoothing_factor": 0.1}}
    found = {name: takes_labels_away(make(classifier(), classes(), **case)) for name, case in cases.items()}
    assert found == {"none": False, "function": True, "smoothing": True}
    assert not takes_labels_away(make(classifier(), classes(), function, kind=OwnLoss))  # it may do as it likes
