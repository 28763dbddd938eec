"""A use counts when the gradient that it has made is added into `.grad`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from truestep.conditioning.transforms._capture import Capture, Use
from truestep.conditioning.transforms._gradient_centering import RowSum, row_sum
from truestep.conditioning.transforms._stepped import stepped_layers


def attached(model: nn.Module) -> Capture:
    layers = stepped_layers(model, SGD(model.parameters()), biased=True)
    return Capture(layers, lambda use: row_sum(use.module, use.x, use.rows))


def seen(capture: Capture, name: str = "0") -> tuple[float, int] | None:
    """Rows and samples."""
    window = capture.windows.get(name)
    if window is None:
        return None
    assert isinstance(window.sums, RowSum)
    return float(window.sums.n), window.samples


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


X = torch.ones(5, 2)


def test_passes_without_a_backward_do_not_count() -> None:
    model = net()
    capture = attached(model)
    model(X)
    with torch.no_grad():
        model(X)
    with torch.inference_mode():
        model(X)
    assert seen(capture) is None
    model(X).sum().backward()
    assert seen(capture) == seen(capture, "2") == (5, 5)


def test_backwards_of_a_window_add_up_and_zero_grad_begins_a_new_one() -> None:
    model = net()
    capture = attached(model)
    model(X).sum().backward()
    model(X[:2]).sum().backward()
    assert seen(capture) == (7, 7)
    model.zero_grad()
    model(X[:1]).sum().backward()
    assert seen(capture) == (1, 1)
    capture.clear()
    assert seen(capture) is None


def test_a_layer_used_twice_sees_its_samples_twice_and_counts_them_once() -> None:
    layer = nn.Linear(2, 2)
    capture = attached(nn.Sequential(layer))
    layer(layer(X)).sum().backward()
    assert seen(capture) == (10, 5)


def test_words_are_rows_of_a_sample_and_one_sample_needs_no_dimension() -> None:
    model = net()
    capture = attached(model)
    model(torch.ones(3, 4, 2)).sum().backward()
    assert seen(capture) == (12, 3)
    model.zero_grad()
    model(torch.ones(2)).sum().backward()
    assert seen(capture) == (1, 1)


def test_places_of_an_image_are_rows() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    capture = attached(model)
    model(torch.ones(4, 1, 5, 5)).sum().backward()
    assert seen(capture) == (36, 4)
    model.zero_grad()
    model(torch.ones(1, 5, 5)).sum().backward()
    assert seen(capture) == (9, 1)


def test_gradients_taken_aside_do_not_count() -> None:
    model = net()
    capture = attached(model)
    loss = model(X).square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    torch.autograd.grad(sum(g.square().sum() for g in first), model[0].weight)
    x = X.clone().requires_grad_()
    torch.autograd.grad(model(x).sum(), x)
    assert seen(capture) is None
    model(X[:2]).sum().backward()
    assert seen(capture) == (2, 2)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_gradient_that_was_zeroed_begins_a_new_window_too(foreach: bool) -> None:
    model = net()
    capture = attached(model)
    optimizer = SGD(model.parameters(), foreach=foreach)
    for written in (0.0, torch.inf, torch.nan):  # a scaler that finds these skips the step
        model(X).sum().backward()
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(written)
        optimizer.zero_grad(set_to_none=False)
        model(X[:2]).sum().backward()
        assert seen(capture) == seen(capture, "2") == (2, 2)
        model.zero_grad()


def test_a_gradient_that_was_written_to_but_not_zeroed_goes_on() -> None:
    model = net()
    capture = attached(model)
    model(X).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    model(X[:2]).sum().backward()
    assert seen(capture) == (7, 7)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_backward_that_fills_no_gradient_leaves_nothing_behind(reentrant: bool) -> None:
    model = net()
    capture = attached(model)
    x = X.clone().requires_grad_()
    out: Any = checkpoint(model[:2], x, use_reentrant=reentrant)
    model[2](out).sum().backward()
    for _ in range(3):
        torch.autograd.grad(model(x).sum(), x)
        assert not capture._pending
    assert seen(capture) == (5, 5)


def test_functional_transforms_pass_through() -> None:
    model = net()
    capture = attached(model)
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, p, (X,)).square().sum()

    torch.func.grad(loss)(params)
    torch.func.vmap(torch.func.grad(loss))({name: torch.stack([p, p]) for name, p in params.items()})
    assert seen(capture) is None
    model(X).sum().backward()
    assert seen(capture) == (5, 5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_pass_counts_once(reentrant: bool) -> None:
    model = net()
    capture = attached(model)
    x = X.clone().requires_grad_()
    out: Any = checkpoint(model[:2], x, use_reentrant=reentrant)
    model[2](out).sum().backward()
    assert seen(capture) == seen(capture, "2") == (5, 5)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_the_model_is_not_hooked(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    capture = attached(model)
    twin = copied(model)
    twin(X).sum().backward()
    model(X[:2]).sum().backward()
    assert seen(capture) == (2, 2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, at graph breaks
def test_a_compiled_model_is_seen() -> None:
    model = net()
    capture = attached(model)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        model.zero_grad()
        compiled(X).sum().backward()
        assert seen(capture) == (5, 5)
    torch._dynamo.reset()


def test_deltas_of_another_loss_count_with_the_next_backward() -> None:
    model = net()
    seen_deltas: list[tuple[bool, float]] = []

    def summed(use: Use) -> RowSum | None:
        seen_deltas.append((use.observed, float(use.delta.sum())))
        return row_sum(use.module, use.x, use.rows) if use.observed else None

    capture = Capture(stepped_layers(model, SGD(model.parameters()), biased=True), summed)
    out = model(X)
    with capture.observing():
        torch.autograd.grad(out, [model[2].bias], torch.full_like(out, 2.0), retain_graph=True)
    assert seen(capture, "2") is None
    out.sum().backward()
    assert seen(capture, "2") == (5, 5)
    assert seen_deltas[:2] == [(True, 10.0), (False, 5.0)]
    assert seen(capture) is None


def test_inputs_may_be_named_and_outputs_written_to() -> None:
    layer, after = nn.Linear(2, 2), nn.ReLU(inplace=True)
    deltas: list[Tensor] = []

    def summed(use: Use) -> None:
        deltas.append(use.delta)

    Capture(stepped_layers(layer, SGD(layer.parameters()), biased=True), summed)
    out = layer(input=X)
    positive = (out > 0).float()
    after(out).sum().backward()
    torch.testing.assert_close(deltas[0], positive)  # at the layer's own output, ahead of the ReLU


def test_closed_it_sees_nothing() -> None:
    model = net()
    capture = attached(model)
    model(X).sum().backward()
    capture.close()
    model(X).sum().backward()
    assert seen(capture) is None
    assert not any(m._forward_hooks for m in model)
