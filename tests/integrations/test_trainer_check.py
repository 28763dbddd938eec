"""A Trainer's accumulated gradient against the union batch's: the check names what is wrong, and leaves no trace."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import trainers
from tests.integrations.trainers import NO_DROPOUT, classes, classifier, masked, relative_error, sentences, union
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer

from truestep.integrations.transformers import Loss, check

IN_ORDER = {"train_sampling_strategy": "sequential"}


def using_the_count(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    return cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def test_a_classifier_s_gradient_is_multiplied_by_the_number_of_micro_batches(make: Callable[..., Trainer]) -> None:
    found = check(make(classifier(), classes()))
    assert found.ratio == pytest.approx(4.0, abs=1e-3)
    assert found.short is not None
    assert found.short.ratio == pytest.approx(2.0, abs=1e-3)
    assert not found.ok
    assert "missing division" in found.cause
    assert "compute_loss_func=truestep.integrations.transformers.Loss()" in found.remedy


def test_what_the_check_says_is_what_training_does(make: Callable[..., Trainer]) -> None:
    model, rows = classifier(**NO_DROPOUT), classes(8)
    expected = union(model, rows, shift=False)
    own = make(model, rows, learning_rate=0.0, **IN_ORDER)
    said = check(own).ratio
    (gradient,) = trainers.trained(own)
    assert relative_error(gradient, said * expected) < 1e-5


def test_masked_tokens_are_averaged_per_micro_batch_and_added(make: Callable[..., Trainer]) -> None:
    found = check(make(masked(), sentences()))
    assert "mean of means" in found.cause
    assert "missing division" in found.cause
    assert found.ratio > 2


@pytest.mark.parametrize("first", [True, False], ids=["first label kept", "first label ignored"])
def test_a_llama_s_gradient_is_that_of_the_union(make: Callable[..., Trainer], first: bool) -> None:
    found = check(make(trainers.llama(), sentences(first=first)))
    assert found.ok
    assert found.relative_error < 1e-5


def test_gpt2_counts_first_labels_that_it_does_not_predict(make: Callable[..., Trainer]) -> None:
    rows = sentences(8)
    kept = sum(int((row["labels"] != -100).sum()) for row in rows)
    found = check(make(trainers.gpt2(), rows, **IN_ORDER))
    assert found.ratio == pytest.approx((kept - len(rows)) / kept, abs=1e-4)
    assert f"divides by {kept} labels" in found.cause
    assert "labels[:, 0] = -100" in found.remedy
    assert check(make(trainers.gpt2(), sentences(8, first=False))).relative_error < 1e-5


def test_of_t_labels_kept_t_minus_1_are_predicted(make: Callable[..., Trainer]) -> None:
    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in sentences(8)]
    assert check(make(trainers.gpt2(), rows)).ratio == pytest.approx(1 - 1 / trainers.LENGTH, abs=1e-4)


class Plain(nn.Module):
    """A head without **kwargs: the Trainer divides by the number of micro-batches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = masked()

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        return self.inner(input_ids=input_ids, labels=labels)


class OwnMean(Trainer):
    """A `compute_loss` with a mean of its own."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def ignoring_the_count(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return cross_entropy(outputs.logits, labels)


def test_a_module_without_keyword_arguments_gives_a_mean_of_means(make: Callable[..., Trainer]) -> None:
    found = check(make(Plain(), sentences()))
    assert found.cause.startswith("mean of means")
    assert "missing division" not in found.cause


def test_a_compute_loss_of_one_s_own_is_named_in_the_remedy(make: Callable[..., Trainer]) -> None:
    found = check(make(classifier(), classes(), kind=OwnMean))
    assert found.ratio == pytest.approx(4.0, abs=1e-3)
    assert "OwnMean.compute_loss" in found.remedy


def test_a_loss_function_that_ignores_the_count_is_told_from_one_that_uses_it(make: Callable[..., Trainer]) -> None:
    wrong = check(make(classifier(), classes(), ignoring_the_count))
    assert wrong.ratio == pytest.approx(4.0, abs=1e-3)
    assert "compute_loss_func" in wrong.remedy
    assert check(make(classifier(), classes(), using_the_count)).ok


def test_label_smoothing_in_the_trainer_is_right(make: Callable[..., Trainer]) -> None:
    assert check(make(masked(), sentences(), label_smoothing_factor=0.1)).relative_error < 1e-5


def test_a_window_of_one_micro_batch_is_right(make: Callable[..., Trainer]) -> None:
    found = check(make(classifier(), classes(), gradient_accumulation_steps=1))
    assert found.ok
    assert found.short is None


def weighted(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """A sum over the count whose gradient is nan where the count is 0."""
    losses = cross_entropy(outputs.logits, labels.clamp_min(0), reduction="none")
    return (losses * (labels != -100)).sum() / num_items_in_batch


def test_micro_batches_with_nothing_to_learn_from_have_no_share(make: Callable[..., Trainer]) -> None:
    rows = classes(8)
    for row in rows[2:4]:
        row["labels"] = torch.tensor(-100)
    assert check(make(classifier(), rows, weighted, **IN_ORDER)).ok


def drawing(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A collator that draws which tokens to predict, as those of masked language models do."""
    tokens = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": tokens, "labels": torch.where(torch.rand(tokens.shape) < 0.3, tokens, -100)}


def test_batches_from_a_collator_that_draws_are_collated_once(make: Callable[..., Trainer]) -> None:
    own = make(masked(), sentences(), Loss())
    own.data_collator = drawing
    assert check(own).relative_error < 1e-5


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        yield from sentences()


def test_a_stream_is_not_consumed_and_its_batches_can_be_given(make: Callable[..., Trainer]) -> None:
    own = make(masked(), Stream(), Loss(), max_steps=1)
    with pytest.raises(ValueError, match="`batches` must be given"):
        check(own)
    rows = sentences(8)
    batches = [{key: torch.stack([row[key] for row in rows[i : i + 2]]) for key in rows[0]} for i in range(0, 8, 2)]
    before = copy.deepcopy(batches)
    assert check(own, batches=batches).ok
    torch.testing.assert_close(batches, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at least one micro-batch"):
        check(own, batches=[])


def test_a_missing_training_set_is_no_stream(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), None, Loss(), max_steps=1)
    with pytest.raises(ValueError, match="`trainer` has no train_dataset"):
        check(own)
    rows = classes(8)
    assert check(own, batches=[{key: torch.stack([row[key] for row in rows]) for key in rows[0]}]).ok


class Writing(Trainer):
    """A `compute_loss` that writes to its labels."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs["labels"][:, ::2] = -100
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def test_the_caller_s_batches_are_never_written_to(make: Callable[..., Trainer]) -> None:
    rows = sentences(2)
    batches = [{key: torch.stack([row[key] for row in rows]) for key in rows[0]}]
    before = copy.deepcopy(batches)
    check(make(masked(), rows, kind=Writing), batches=batches)
    torch.testing.assert_close(batches, before, rtol=0, atol=0)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_training_after_a_check_is_the_same_to_the_bit(make: Callable[..., Trainer], half: bool) -> None:
    weights = []
    for checked in (False, True):
        own = make(classifier(), classes(20), bf16=half)  # shuffled rows, dropout, a short last window
        if checked:
            assert check(own).ratio == pytest.approx(4.0, rel=0.05 if half else 1e-3)
        own.train()
        if checked:
            assert check(own).ratio == pytest.approx(4.0, rel=0.05 if half else 1e-3)
        weights.append((own.model.state_dict(), torch.get_rng_state()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_check_leaves_no_trace_in_the_trainer(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), classes())
    own.model.eval()
    own.model.classifier.weight.grad = kept = torch.ones_like(own.model.classifier.weight)
    holders = (own, own.accelerator, own.accelerator.gradient_state, own.model, own.model.config)
    before = [copy.copy(vars(holder)) for holder in holders]
    dataloaders = list(own.accelerator._dataloaders)
    check(own)
    assert [vars(holder) for holder in holders] == before
    assert own.accelerator._dataloaders == dataloaders
    assert not own.model.bert.training
    assert own.model.classifier.weight.grad is kept
    assert bool((kept == 1).all())


def test_no_seed_is_left_for_a_device_that_is_used_later(make: Callable[..., Trainer]) -> None:
    own, later = make(classifier(), classes()), torch.cuda._lazy_seed_tracker
    before = later.get_calls()
    check(own)
    assert later.get_calls() == before


def test_an_exception_leaves_no_trace_either(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), classes(), lambda *_, **__: 1 / 0)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        check(own)
    assert torch.equal(torch.get_rng_state(), state)
    assert own.accelerator._dataloaders == []
    assert all(p.grad is None for p in own.model.parameters())


def test_a_trainer_that_shards_is_refused(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), classes())
    own.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="found FSDP"):
        check(own)
