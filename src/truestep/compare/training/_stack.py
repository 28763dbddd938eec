"""The models of many replicas as one: each weight with the replicas along a first dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from truestep.compare.problems import Problem
from truestep.compare.problems._problem import evaluating
from truestep.compare.step_matched._extent import real
from truestep.compare.training._lean import LeanCrossEntropy
from truestep.compare.training._probe import MeanLoss, Outputs, is_small
from truestep.compare.training._stackable import NotStackableError


class Stack:
    """Models of a problem, one for each seed given (a seed may stand there twice), run as one.

    Example:
        >>> from truestep.compare.problems import quadratic
        >>> stack = Stack(quadratic(), [0, 1])
        >>> stack.losses((torch.zeros(2, dtype=torch.float64),), shared=True).shape
        torch.Size([2])
    """

    def __init__(self, problem: Problem, seeds: Sequence[int]) -> None:
        built = {seed: problem.build(seed) for seed in dict.fromkeys(seeds)}
        models = [built[seed] for seed in seeds]
        self.models, self.model, self._loss_fn = models, models[0], problem.loss_fn
        self.params = {
            name: values.requires_grad_(self.model.get_parameter(name).requires_grad)
            for name, values in _stacked([dict(model.named_parameters()) for model in models]).items()
        }
        self.buffers = _stacked([dict(model.named_buffers()) for model in models])

    def __len__(self) -> int:
        return len(self.models)

    def losses(self, batch: Any, *, shared: bool) -> Tensor:
        """Mean loss of each replica, on one batch that is `shared` or on its row of each tensor."""
        return self._run(MeanLoss(self.model, self._loss_fn), batch, shared=shared)

    @torch.no_grad()
    def at(self, probe: Any, *, paths: bool) -> tuple[Tensor, Tensor | None]:
        """Losses in float64 and places of all replicas on the probe, in evaluation mode."""
        with evaluating(self.model):
            losses = self.losses(probe, shared=True).double()
            return losses, self._places(probe) if paths else None

    def _places(self, probe: Any) -> Tensor:
        if is_small(self.model):
            return torch.cat([real(p).reshape(len(p), -1) for p in self.params.values()], 1).float()
        return self._run(Outputs(self.model), probe, shared=True).float()

    def _run(self, module: nn.Module, batch: Any, *, shared: bool) -> Tensor:
        state = {f"model.{name}": x for name, x in (self.params | self.buffers).items()}

        def one(state: dict[str, Tensor], batch: Any) -> Tensor:
            return functional_call(module, state, (batch,))

        with LeanCrossEntropy(), sdpa_kernel(SDPBackend.MATH):  # torch's other kernels run under vmap one by one
            return vmap(one, in_dims=(0, None if shared else 0))(state, batch)


def _stacked(held: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    first = {name: (x.shape, x.dtype, x.device) for name, x in held[0].items()}
    for other in held[1:]:
        if first != {name: (x.shape, x.dtype, x.device) for name, x in other.items()}:
            raise NotStackableError("models of different seeds have different weights")
    return {name: torch.stack([each[name].detach() for each in held]) for name in first}
