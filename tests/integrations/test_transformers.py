"""The loss for a Trainer: the union batch's gradient, from logits and torch alone, in real training runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integrations import trainers
from tests.integrations.trainers import classes, classifier, relative_error, sentences, union
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer
from transformers.modeling_outputs import CausalLMOutputWithPast

from truestep.integrations.transformers import Loss, check

IN_ORDER = {"train_sampling_strategy": "sequential"}


@pytest.mark.parametrize("per", ["token", "item"])
@pytest.mark.parametrize("name", ["masked", "llama", "gpt2"])
def test_training_with_the_attached_loss_takes_the_union_s_gradient(
    make: Callable[..., Trainer], name: str, per: str
) -> None:
    model, rows = trainers.build(name)(), sentences(12)  # a window of four micro-batches and one of two
    shift = name != "masked"
    expected = [union(model, part, shift=shift, per=per) for part in (rows[:8], rows[8:])]
    own = make(model, rows, learning_rate=0.0, **IN_ORDER)
    Loss(per).attach(own)
    assert check(own, per=per).relative_error < 1e-5
    for gradient, right in zip(trainers.trained(own), expected, strict=True):
        assert relative_error(gradient, right) < 1e-5


@pytest.mark.parametrize("name", ["masked", "llama"])
def test_training_with_the_loss_as_an_argument_takes_the_union_s_gradient(
    make: Callable[..., Trainer], name: str
) -> None:
    model, rows = trainers.build(name)(), sentences(12)
    expected = [union(model, part, shift=name == "llama") for part in (rows[:8], rows[8:])]
    gradients = trainers.trained(make(model, rows, Loss(), learning_rate=0.0, **IN_ORDER))
    for gradient, right in zip(gradients, expected, strict=True):
        assert relative_error(gradient, right) < 1e-5


def test_the_loss_brings_a_classifier_s_error_below_1e_5(make: Callable[..., Trainer]) -> None:
    found = check(make(classifier(), classes(), Loss()))
    assert found.ok
    assert found.relative_error < 1e-5


def test_the_trainer_s_evaluation_loss_is_the_mean(make: Callable[..., Trainer]) -> None:
    model, rows = trainers.gpt2(), sentences(4)
    own = make(model, rows, per_device_eval_batch_size=4)
    Loss().attach(own)
    labels = torch.stack([row["labels"] for row in rows])[:, 1:]
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.stack([row["input_ids"] for row in rows])).logits[:, :-1]
    expected = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    assert own.evaluate(rows)["eval_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_an_encoder_decoder_does_not_shift(make: Callable[..., Trainer]) -> None:
    model, rows = trainers.t5(), sentences()
    for row in rows:
        row["decoder_input_ids"] = model._shift_right(row["labels"][None].clone())[0]
    wrong, right = check(make(model, rows)), check(make(model, rows, Loss()))
    assert "missing division" in wrong.cause
    assert right.relative_error < 1e-5


def seq2seq(name: str) -> nn.Module:
    return trainers.bart() if name == "bart" else trainers.t5(dropout_rate=0.0)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_attached_loss_makes_an_encoder_decoder_s_inputs(make: Callable[..., Trainer], name: str) -> None:
    model, rows = seq2seq(name), sentences(8)
    own = make(model, rows, learning_rate=0.0, per_device_eval_batch_size=8, **IN_ORDER)
    assert check(own).remedy == "truestep.integrations.transformers.Loss().attach(trainer)"
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    mean = model(**batch).loss
    expected = trainers.flat(list(torch.autograd.grad(mean, [p for p in model.parameters() if p.requires_grad])))
    loss = Loss().attach(own)
    assert check(own).relative_error < 1e-5
    (gradient,) = trainers.trained(own)
    assert relative_error(gradient, expected) < 1e-5
    assert own.evaluate(rows)["eval_loss"] == pytest.approx(float(mean.detach()), rel=1e-5)
    loss.close()
    assert "compute_loss" not in vars(own)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_encoder_decoder_without_its_inputs_is_told_how_to_get_them(
    make: Callable[..., Trainer], name: str, smoothing: float
) -> None:
    own = make(seq2seq(name), sentences(), None if smoothing else Loss(), label_smoothing_factor=smoothing)
    with pytest.raises(ValueError, match=r"Loss\(\).attach\(trainer\) makes those"):
        check(own)


def test_a_compute_loss_that_the_trainer_held_comes_back(make: Callable[..., Trainer]) -> None:
    own = make(trainers.t5(), sentences())
    own.compute_loss = held = own.compute_loss
    Loss().attach(own).close()
    assert vars(own)["compute_loss"] is held


class Wrapped(nn.Module):
    """Someone's own module around a causal language model."""

    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.inner, self.plain = trainers.llama(), plain

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        outputs = self.inner(input_ids=input_ids, labels=labels)
        return dict(outputs) if self.plain else outputs


@pytest.mark.parametrize("plain", [False, True])
def test_whether_an_unknown_model_shifts_must_be_said(make: Callable[..., Trainer], plain: bool) -> None:
    own = make(Wrapped(plain=plain), sentences(), remove_unused_columns=False)
    loss = Loss().attach(own)
    with pytest.raises(ValueError, match="`shift` must be given"):
        check(own)
    loss.close()
    Loss(shift=True).attach(own)
    assert check(own).relative_error < 1e-5


def test_a_router_s_balance_is_not_passed_over_in_silence() -> None:
    outputs = CausalLMOutputWithPast(logits=torch.randn(1, 3, 4))
    outputs["aux_loss"] = torch.tensor(1.0)
    with pytest.warns(UserWarning, match="aux_loss"):
        Loss()(outputs, torch.ones(1, 3, dtype=torch.long))


def test_data_parallel_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="DataParallel"):
        Loss()({"logits": torch.randn(2, 3)}, torch.ones(2, dtype=torch.long), torch.ones(2, 1))


def test_a_trainer_that_splits_its_batches_is_refused(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), classes())
    own.get_cp_size = lambda: 2
    with pytest.raises(ValueError, match="one device a process"):
        Loss().attach(own)


def test_what_is_no_trainer_is_refused() -> None:
    for call in (check, Loss().attach):
        with pytest.raises(TypeError, match=r"`trainer` must be a transformers.Trainer, found Linear"):
            call(nn.Linear(1, 1))


def test_close_gives_the_trainer_its_own_loss_back(make: Callable[..., Trainer]) -> None:
    own = make(classifier(), classes(), other := Loss())
    before = dict(vars(own))
    Loss().attach(own).close()
    assert vars(own) == before
    assert own.compute_loss_func is other


def test_smoothing_in_the_loss_is_the_trainer_s(make: Callable[..., Trainer]) -> None:
    rows = sentences(8)
    gradients = [
        trainers.trained(
            make(trainers.llama(), rows, loss, learning_rate=0.0, label_smoothing_factor=factor, **IN_ORDER)
        )
        for loss, factor in ((None, 0.1), (Loss(label_smoothing=0.1), 0.0))
    ]
    assert relative_error(gradients[1][0], gradients[0][0]) < 1e-5
    with pytest.raises(ValueError, match="Loss\\(label_smoothing="):
        Loss().attach(make(trainers.llama(), rows, label_smoothing_factor=0.1))


def test_losses_of_other_kinds_are_given_as_a_function() -> None:
    outputs, labels = {"logits": torch.tensor([[1.0], [2.0], [4.0]])}, torch.tensor([0.0, 4.0, -100.0])
    squared = Loss(losses=lambda logits, y: (logits.squeeze(-1) - y) ** 2)
    assert float(squared(outputs, labels)) == 2.5
    assert float(squared(outputs, labels, torch.tensor(10))) == 0.5
    with pytest.raises(ValueError, match="labels` are floating"):
        Loss()(outputs, labels)


def test_a_window_that_is_all_ignored_gives_zero_and_zero_gradients() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = Loss()({"logits": logits}, torch.full((2,), -100), torch.tensor(0))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(3, 5, dtype=torch.bfloat16)
    labels = torch.tensor([1, 2, -100])
    found = Loss()({"logits": logits}, labels, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cross_entropy(logits.float(), labels))


def test_rows_cannot_be_averaged_first_without_the_trainer() -> None:
    outputs, labels = {"logits": torch.randn(2, 3, 5)}, torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="attach"):
        Loss("item")(outputs, labels, torch.tensor(6))
    with pytest.raises(ValueError, match="`labels` must be in the batch"):
        Loss()(outputs, None)
