"""A loss at the weights as they are, evaluated so that it can be differentiated twice and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from truestep.core import is_distributed
from truestep.core._mean_loss import mean_loss
from truestep.core._names import bare, unwrapped
from truestep.core._preserved import preserved

LossFn = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """A model, a batch and `loss_fn(model, batch)`, and the parameters to differentiate by.

    The bare model inside DDP and torch.compile is what runs: neither can be differentiated twice.
    """

    model: nn.Module
    batch: Any
    loss_fn: LossFn
    parameters: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters, in their order."""
        return list(self.parameters.values())

    @property
    def size(self) -> int:
        """Number of elements of all parameters."""
        return sum(p.numel() for p in self.tensors)

    @property
    def eps(self) -> float:
        """Rounding of the coarsest parameter."""
        return max(torch.finfo(p.dtype).eps for p in self.tensors)

    @contextmanager
    def undisturbed(self) -> Generator[None, None, None]:
        """Runs the model as if it had never run, with gradients and with attention that has second derivatives.

        Buffers are copies meanwhile: put back in place, they would spoil the graph, which may hold them.
        """
        with preserved(self.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            copies = {id(x): x.clone() for x in self.model.buffers()}
            for module in self.model.modules():
                own: dict[str, Tensor | None] = vars(module)["_buffers"]
                own.update({name: copies[id(x)] for name, x in own.items() if x is not None})
            yield

    def loss(self) -> tuple[Float[Tensor, ""], bool]:
        """The mean loss, with its graph, and whether it drew random numbers; call it within `undisturbed`.

        Raises:
            ValueError: If it is not finite, or has no gradient.
        """
        before = _random_states()
        loss, _ = mean_loss(self.loss_fn(self.model, self.batch))
        drew = not all(map(torch.equal, before, _random_states()))
        if not bool(loss.isfinite()):
            raise ValueError(f"`loss_fn` must give a finite loss, found {float(loss.detach())}")
        if not loss.requires_grad:
            raise ValueError("`loss_fn` must give a loss with a gradient; found one that is detached, or under no_grad")
        return loss, drew


def _random_states() -> list[Tensor]:
    """Of torch, on the CPU and on the GPUs in use."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def problem(model: nn.Module, batch: Any, loss_fn: LossFn) -> Problem:
    """The problem of all parameters that require a gradient.

    Raises:
        ValueError: If there is none, or one is sharded or complex.
    """
    model = unwrapped(model)
    parameters: dict[str, Tensor] = {
        bare(name): p for name, p in model.named_parameters() if p.requires_grad and p.numel()
    }
    if not parameters:
        raise ValueError("`model` has no parameter that requires a gradient, so no curvature")
    for name, p in parameters.items():
        if is_distributed(p):
            raise ValueError(f"`model` is sharded ({name} is a DTensor); look before `fully_shard`, on a whole copy")
        if p.is_complex():
            raise ValueError(f"`model` must have real parameters, found complex {name}: hold it as view_as_real")
    return Problem(model, batch, loss_fn, parameters)


def tensors_of(problem: Problem, vector: Mapping[str, Tensor], argument: str = "vector") -> list[Tensor]:
    """The vector's tensors in the order of the parameters, on their devices and in their dtypes.

    Raises:
        ValueError: If names or shapes are not theirs.
    """
    if unlike := set(vector) ^ set(problem.parameters):
        msg = f"`{argument}` must have the names of the parameters that require a gradient; differs in {sorted(unlike)}"
        raise ValueError(msg)
    for name, p in problem.parameters.items():
        if vector[name].shape != p.shape:
            found = tuple(vector[name].shape)
            raise ValueError(f"`{argument}` must have the shape {tuple(p.shape)} at {name}, found {found}")
    return [vector[name].detach().to(p) for name, p in problem.parameters.items()]


def differentiated(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor], *, graph: bool = False
) -> list[Tensor]:
    """Vectors times the derivative of the outputs; zeros where there is none. The graph may be gone through again.

    Raises:
        ValueError: If one is sparse: such a gradient has no derivative of its own in torch.
    """
    pairs = [(y, v) for y, v in zip(outputs, vectors, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    ys, vs = zip(*pairs, strict=True)
    found: Any = torch.autograd.grad(ys, inputs, vs, retain_graph=True, create_graph=graph, allow_unused=True)
    if sparse := [tuple(g.shape) for g in found if g is not None and g.layout != torch.strided]:
        msg = f"`model` must have dense gradients, found a sparse one of shape {sparse[0]}"
        raise ValueError(f"{msg}: set `sparse` of its Embedding to False while looking")
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
