"""The record of one step of one block: the inner products of weight, gradient and displacement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Inexact
from torch import Tensor

from truestep.core._additive import AbstractSum
from truestep.core._block import block_products
from truestep.core._products import Scratch


@dataclass(frozen=True, slots=True)
class Gram(AbstractSum):
    r"""Inner products of weight :math:`w`, gradient :math:`g` and displacement :math:`d`.

    Every field is a sum over elements, so the Gram of two shards, or of two blocks seen
    as one, is the sum of their Grams. Divide only after the last addition.

    Args:
        ww: :math:`\|w\|^2` of the weight before the step.
        wg: :math:`\langle w, g \rangle`; 0 for a scale-invariant block.
        wd: :math:`\langle w, d \rangle`; negative where the step shortens the weight.
        gg: :math:`\|g\|^2` of the gradient that the optimizer used.
        gd: :math:`\langle g, d \rangle`; negative for a descent direction.
        dd: :math:`\|d\|^2` of the displacement, weight after minus weight before.
    """

    ww: Float64[Tensor, "*blocks"]
    wg: Float64[Tensor, "*blocks"]
    wd: Float64[Tensor, "*blocks"]
    gg: Float64[Tensor, "*blocks"]
    gd: Float64[Tensor, "*blocks"]
    dd: Float64[Tensor, "*blocks"]

    @classmethod
    def from_columns(cls, columns: Float64[Tensor, "*blocks 6"]) -> Gram:
        """The Gram whose fields are the last dimension of `columns`: ww, wg, wd, gg, gd, dd."""
        return cls(*columns.unbind(-1))

    def columns(self) -> Float64[Tensor, "*blocks 6"]:
        """All fields in one tensor, ww, wg, wd, gg, gd, dd in the last dimension."""
        return torch.stack([self.ww, self.wg, self.wd, self.gg, self.gd, self.dd], -1)

    def sum(self) -> Gram:
        """All blocks seen as one."""
        return Gram(self.ww.sum(), self.wg.sum(), self.wd.sum(), self.gg.sum(), self.gd.sum(), self.dd.sum())

    @property
    def weight_norm(self) -> Float64[Tensor, "*blocks"]:
        r""":math:`\|w\|` before the step."""
        return self.ww.sqrt()

    @property
    def gradient_norm(self) -> Float64[Tensor, "*blocks"]:
        r""":math:`\|g\|`."""
        return self.gg.sqrt()

    @property
    def step_norm(self) -> Float64[Tensor, "*blocks"]:
        r""":math:`\|d\|`, the length of the step taken."""
        return self.dd.sqrt()

    @property
    def alignment(self) -> Float64[Tensor, "*blocks"]:
        r"""Cosine of step and steepest descent, :math:`-\langle g, d \rangle / \|g\|\|d\|`; nan where one is 0."""
        return -self.gd / (self.gradient_norm * self.step_norm)

    @property
    def trust_ratio(self) -> Float64[Tensor, "*blocks"]:
        r""":math:`\|w\| / \|g\|`, the factor by which LARS scales the gradient (You et al., 2017, eq. 6, no decay)."""
        return self.weight_norm / self.gradient_norm

    @property
    def predicted_loss_change(self) -> Float64[Tensor, "*blocks"]:
        r"""First-order change of the loss, :math:`\langle g, d \rangle`, in the reduction of the loss that gave g."""
        return self.gd


def gram(
    w: Inexact[Tensor, "*shape"],
    g: Inexact[Tensor, "*shape"],
    d: Inexact[Tensor, "*shape"],
    unit_dim: int | None = None,
) -> Gram:
    """The Gram of one block, summed in float64 whatever the dtypes; nothing waits for the device.

    Args:
        w: Weight before the step.
        g: Gradient that the optimizer used, dense or sparse.
        d: Displacement, weight after minus weight before.
        unit_dim: One value for each slice along this dimension (0 for the rows of a Linear or Conv weight).

    Returns:
        A Gram of scalars, or of `[w.shape[unit_dim]]`.

    Raises:
        ValueError: If the three shapes differ, or have no dimension `unit_dim`.

    Example:
        >>> w, g, d = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
        >>> gram(w, g, d).gd
        tensor(-2., dtype=torch.float64)
    """
    if not w.shape == g.shape == d.shape:
        msg = f"`w`, `g` and `d` must have one shape, found {tuple(w.shape)}, {tuple(g.shape)}, {tuple(d.shape)}"
        raise ValueError(msg)
    if unit_dim is not None and not -w.dim() <= unit_dim < w.dim():
        msg = f"`unit_dim` must be a dimension of a tensor of shape {tuple(w.shape)}, found {unit_dim}"
        raise ValueError(msg)
    w, g, d = w.detach(), g.detach(), d.detach()
    scratch = Scratch(w.device, 2 * w.numel() if w.is_complex() else w.numel())
    return Gram.from_columns(block_products(w, g, d, scratch, after=False, unit_dim=unit_dim))
