"""One row of S: weights of its own, one backward pass, the products <w, g> of every tensor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from truestep.core import gram, squared_norms
from truestep.core._mean_loss import mean_loss
from truestep.invariance.symmetries._noise import Noise

Exponents = Float64[Tensor, " tensors"]
_BITS = 32
_REENTRANT = (
    "`model` uses reentrant checkpoints, whose gradients only `backward` computes; look at it with "
    "use_reentrant=False, or without checkpoints"
)
_CHUNK = 1 << 16  # elements converted at a time: fresh memory would cost more than the product


@dataclass(frozen=True, slots=True)
class Row:
    """Products of one backward pass, float64 on the CPU, by tensor: <w, g> and its natural size |w||g|."""

    wg: Float64[Tensor, " tensors"]
    size: Float64[Tensor, " tensors"]


class Probe:
    """Gradients of a model at weights that we choose; counts the backward passes.

    Args:
        model: The model, possibly wrapped.
        parameters: Its trainable tensors by name.
        batches: Batches, taken in turn.
        loss_fn: `loss_fn(model, batch)`.
        seed: Of the random weights, and of what the model draws.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Tensor],
        batches: Sequence[Any],
        loss_fn: Callable[[Any, Any], Any],
        seed: int,
    ) -> None:
        self._model, self._batches, self._loss_fn, self._seed = model, batches, loss_fn, seed
        self.parameters = list(parameters.values())
        self.gradients: list[Tensor] = []
        self._own = [p.detach().clone() for p in self.parameters]
        self._noise = Noise(self._own)
        self.passes = 0

    def row(self, index: int, exponents: Exponents | None = None, scale: float = 1.0) -> Row | None:
        """Row `index` at its own random weights, each times `scale` to its exponent; None where it is not finite."""
        generator = torch.Generator().manual_seed(self._seed + index)
        for at, p in enumerate(self.parameters):
            factor = 1.0 if exponents is None else scale ** float(exponents[at])
            self._noise.fill(p.detach(), self._own[at], factor, generator)
        return self._products(index)

    def own(self, index: int) -> Row | None:
        """The same at the model's own weights."""
        for p, w in zip(self.parameters, self._own, strict=True):
            p.detach().copy_(w)
        return self._products(index)

    def units(self, at: int) -> Float64[Tensor, "units 2"]:
        """By slices along dimension 0 of the tensor at `at`, of the last row: <w, g> and |w||g|."""
        w, g = self.parameters[at].detach(), self.gradients[at]
        found = gram(w, g, g, unit_dim=0) if w.dim() else gram(w[None], g[None], g[None], unit_dim=0)
        return torch.stack([found.wg, (found.ww * found.gg).sqrt()], -1).cpu()

    def dead(self, at: int) -> Bool[Tensor, " units"]:
        """Which of these slices had no gradient in the last row."""
        g = self.gradients[at]
        return ~(g != 0).reshape(g.shape[0], -1).any(1).cpu()

    def _products(self, index: int) -> Row | None:
        self.gradients = self._backward(self._batches[index % len(self._batches)], index)
        weights = [p.detach() for p in self.parameters]
        wg = torch.stack([_dot(w, g).cpu() for w, g in zip(weights, self.gradients, strict=True)])
        size = (squared_norms(weights) * squared_norms(self.gradients)).sqrt().cpu()
        return Row(wg, size) if bool(torch.isfinite(wg + size).all()) else None

    def _backward(self, batch: Any, index: int) -> list[Tensor]:
        first = self.passes == 0
        self.passes += 1
        with torch.enable_grad(), _local(self._model), _narrow_refused(self._model) if first else nullcontext():
            found = _gradients(self._loss(batch, index), self.parameters)
            if first and any(g is None for g in found):
                self._check_checkpoints(self._loss(batch, index), found)
        return [_dense(p, g) for p, g in zip(self.parameters, found, strict=True)]

    def _loss(self, batch: Any, index: int) -> Tensor:
        torch.manual_seed(self._seed + index)
        return mean_loss(self._loss_fn(self._model, batch))[0]

    def _check_checkpoints(self, loss: Tensor, found: Sequence[Tensor | None]) -> None:
        """Raise where a backward fills gradients that `autograd.grad` does not see."""
        loss.backward()
        hidden = any(p.grad is not None and g is None for p, g in zip(self.parameters, found, strict=True))
        for p in self.parameters:
            p.grad = None
        if hidden:
            raise ValueError(_REENTRANT)


def _gradients(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, parameters, allow_unused=True)
    except RuntimeError as error:
        if "heckpoint" in str(error):
            raise ValueError(_REENTRANT) from error
        raise


@contextmanager
def _narrow_refused(model: nn.Module) -> Generator[None, None, None]:
    """Raise where a module gives numbers narrower than float32, as autocast does: their rounding hides symmetries."""

    def look(module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and torch.finfo(output.dtype).bits < _BITS:
            msg = f"`loss_fn` computes in {output.dtype} ({type(module).__name__}), whose rounding hides symmetries"
            raise ValueError(f"{msg}; leave out autocast")

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dense(p: Tensor, g: Tensor | None) -> Tensor:
    if g is None:
        return torch.zeros_like(p)
    return g.detach().to_dense() if g.layout != torch.strided else g.detach()


def _dot(w: Tensor, g: Tensor) -> Float64[Tensor, ""]:
    """Sum of the products in float64, that of real and imaginary parts for complex numbers."""
    if w.is_complex():
        w, g = torch.view_as_real(w.resolve_conj()), torch.view_as_real(g.resolve_conj())
    parts = zip(w.reshape(-1).split(_CHUNK), g.reshape(-1).split(_CHUNK), strict=True)
    return torch.stack([torch.dot(a.double(), b.double()) for a, b in parts]).sum()


def _local(model: nn.Module) -> AbstractContextManager[Any]:
    """Keeps DDP from waiting for the gradient of the other ranks: each looks for itself."""
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()
