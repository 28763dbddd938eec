"""Products of the generalized Gauss-Newton matrix with a vector: the loss's curvature seen through the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._problem import LossFn, Problem, differentiated, problem, tensors_of


def ggn_product(model: nn.Module, batch: Any, loss_fn: LossFn, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Generalized Gauss-Newton matrix of the mean loss times a vector, in 1/weight² times the vector's unit.

    .. math:: G v = J^\top \frac{\partial^2 L}{\partial z^2} J v, \qquad J = \frac{\partial z}{\partial w}

    The outputs z are what the model returns, caught by a hook on it: tensors in any nesting. L is the mean loss. For
    cross entropy and squared error it is the Fisher matrix of the model's distribution, and never negative. One
    forward pass; three backward passes a product. Under batch statistics J couples the samples, as it should.

    Args:
        model: The model, bare or wrapped by DDP or torch.compile; `loss_fn` must call it exactly once.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean, or unreduced losses and their weights.
        vector: A tensor for each parameter that requires a gradient, by name.

    Returns:
        The product, by name.

    Raises:
        ValueError: If the model is not called exactly once; if the loss depends on parameters other than through the
            outputs (a penalty on the weights is no part of a GGN); if it is linear in them; or as `hessian_product`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> ggn_product(model, x, lambda model, x: model(x).square().mean(), {"weight": torch.tensor([[1.0, 1.0]])})
        {'weight': tensor([[1., 4.]])}

    References:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent; Martens (2020), New
        insights and perspectives on the natural gradient method, sec. 8 and 9.
    """
    one = problem(model, batch, loss_fn)
    found = GGN(one).product(tensors_of(one, vector))
    return dict(zip(one.parameters, found, strict=True))


class GGN(AbstractCurvature):
    """The generalized Gauss-Newton matrix; its slope is the loss's gradient at the outputs."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        outputs = _Outputs()
        with problem.undisturbed():
            handle = problem.model.register_forward_hook(outputs.cut)
            try:
                loss, self.drew = problem.loss()
            finally:
                handle.remove()
            outputs.check()
            parameters = problem.tensors
            beside: Any = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            if known := [name for name, g in zip(problem.parameters, beside, strict=True) if g is not None]:
                msg = f"`loss_fn` must see the parameters through the outputs alone, found another way to {known[0]}"
                raise ValueError(f"{msg}: leave penalties out, or use the Hessian")
            self._given, self._read = outputs.given, outputs.read
            self.slope = differentiated([loss], self._read, [torch.ones_like(loss)], graph=True)
            if not any(q.requires_grad for q in self.slope):
                msg = "`loss_fn` must curve in the outputs, found a loss that is linear in them, so no GGN"
                raise ValueError(f"{msg}: where the model returns its own loss, take the loss of its logits")
            # J'u is linear in u, and its derivative by u along v is J v: no forward-mode derivative is needed
            self._u = [torch.zeros_like(z, requires_grad=True) for z in self._given]
            self._pulled = differentiated(self._given, parameters, self._u, graph=True)
        self.loss = float(loss.detach())

    def change(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """How the loss's gradient at the outputs changes: the output Hessian times J times the direction."""
        return differentiated(self.slope, self._read, self.outputs_change(vectors))

    def outputs_change(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """J times the direction."""
        return differentiated(self._pulled, self._u, vectors)

    def back(self, change: Sequence[Tensor]) -> list[Tensor]:
        """J' times the change."""
        return differentiated(self._given, self.problem.tensors, change)


class _Outputs:
    """The model's outputs as it gave them, and the leaves that the loss reads in their place."""

    def __init__(self) -> None:
        self.calls = 0
        self.given: list[Tensor] = []
        self.read: list[Tensor] = []

    def cut(self, _module: nn.Module, _arguments: Any, output: Any) -> Any:
        """A forward hook: outputs that end no graph and begin a new one."""
        self.calls += 1
        flat, tree = tree_flatten(output)
        return tree_unflatten([self._leaf(x) for x in flat], tree)

    def _leaf(self, x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.requires_grad):
            return x
        leaf = x.detach().requires_grad_()
        self.given.append(x)
        self.read.append(leaf)
        return leaf.clone()  # a loss may write to what it reads

    def check(self) -> None:
        """Raise where the outputs are not those of one call."""
        if self.calls != 1:
            msg = (
                f"`loss_fn` must call the model exactly once, found {self.calls} calls: a GGN needs one set of outputs"
            )
            raise ValueError(f"{msg}; put both passes into one module's forward, or use the Hessian")
        if not self.given:
            msg = "`model` must return tensors with a gradient, alone or in tuples, lists and dicts; found none"
            raise ValueError(msg)
