"""Windows of a Trainer played again and again: the same random numbers, and whose labels are shifted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import trainers
from tests.integrations.trainers import classifier, masked, sentences
from torch import nn
from transformers import Trainer

from truestep.integrations._rehearsal import Rehearsal, rehearsal

BATCH = {key: torch.stack([row[key] for row in sentences(2)]) for key in ("input_ids", "labels")}


@pytest.mark.parametrize(
    ("build", "shifts"), [(trainers.gpt2, True), (trainers.llama, True), (masked, False), (trainers.t5, False)]
)
def test_heads_that_shift_are_told_from_those_that_do_not(
    make: Callable[..., Trainer], build: Callable[[], nn.Module], shifts: bool
) -> None:
    own = make(build(), sentences())
    with rehearsal(own):
        assert Rehearsal(own, "token").shifts([BATCH]) is shifts


def test_nothing_is_shifted_where_no_first_label_is_kept(make: Callable[..., Trainer]) -> None:
    own = make(trainers.gpt2(), sentences())
    ignored = BATCH | {"labels": torch.full_like(BATCH["labels"], -100)}
    with rehearsal(own):
        assert not Rehearsal(own, "token").shifts([ignored])
        assert not Rehearsal(own, "token").shifts([{"input_ids": BATCH["input_ids"], "labels": BATCH["labels"][:, 0]}])


def test_a_micro_batch_meets_the_same_dropout_every_time(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), sentences())
    batch: dict[str, Any] = BATCH | {"labels": BATCH["labels"][:, 0] % 3}
    with rehearsal(own):
        played = Rehearsal(own, "token")
        counts = played.counts([batch], shift=False)
        once, again, other = (
            played.accumulated([batch]),
            played.accumulated([batch]),
            played.accumulated([batch, batch]),
        )
        mean = played.reference([batch], counts)
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    torch.testing.assert_close(once, mean)
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.allclose(other[name], 2 * once[name])  # the second micro-batch has another mask
