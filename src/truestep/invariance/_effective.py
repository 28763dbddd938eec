"""The learning rate that the direction of a weight has under each rule, per unit, group of rows or layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from truestep.core import Gram
from truestep.invariance._formulas import effective_lr
from truestep.invariance._rule import Rule, as_float64


def relative_lr(gram: Gram, lr: int | float | Float[Tensor, "*blocks"]) -> Float64[Tensor, "*blocks"]:
    r"""Learning rate over the norm, :math:`\eta/\|w\|`, in 1/weight unit.

    The learning rate of the direction under a rule whose step does not scale with the gradient (Adam, Lion); under
    SGD it goes with the gradient at w.

    Example:
        >>> from truestep import gram
        >>> w = torch.tensor([3.0, 4.0])
        >>> relative_lr(gram(w, w, w), 0.1)
        tensor(0.0200, dtype=torch.float64)
    """
    return lr / gram.weight_norm


def direction_lr(gram: Gram, rule: Rule) -> Float64[Tensor, "..."]:
    r"""Learning rate of the direction :math:`w/\|w\|` under the rule: what is left of lr once the norm has had its say.

    .. math:: \text{SGD } \frac{\eta}{\|w\|^2}, \qquad \text{momentum } \frac{\eta}{(1-\mu)\|w\|^2}, \qquad
        \text{Adam, AdamW, Lion } \frac{\eta}{\|w\|}

    For SGD it multiplies the gradient at the unit sphere, momentum counted as all that a gradient moves in the long
    run (dampening too); for Adam and Lion a vector that knows no scale. Weight decay enters through the norm alone.
    Holds for scale-invariant weights; per unit where the Gram is (BatchNorm, WeightNorm), per tensor under LayerNorm,
    per group of rows under GroupNorm: `by_group` puts a unit's Gram together.

    Args:
        gram: The step's record; only the norm of the weight is read.
        rule: The settings, one for all blocks or one each; `rules(optimizer)` reads them.

    Example:
        >>> from truestep import gram
        >>> w = torch.tensor([3.0, 4.0])
        >>> direction_lr(gram(w, w, w), Rule("sgd", lr=0.1, momentum=0.9))
        tensor(0.0400, dtype=torch.float64)
        >>> direction_lr(gram(w, w, w), Rule("adam", lr=0.1, momentum=0.9))
        tensor(0.0200, dtype=torch.float64)
    """
    if rule.family != "sgd":
        return relative_lr(gram, as_float64(rule.lr).expand_as(gram.ww))
    return effective_lr(gram, rule.step_lr.expand_as(gram.ww)) / (1 - as_float64(rule.momentum))


def by_group(gram: Gram, groups: int) -> Gram:
    """The Gram of each of `groups` groups of consecutive units: what GroupNorm leaves without scale; 1 for LayerNorm.

    Args:
        gram: One Gram for each unit (`gram(..., unit_dim=0)`), units in their order.
        groups: Number of groups; must divide the number of units.

    Raises:
        ValueError: If it does not.

    Example:
        >>> from truestep import gram
        >>> w = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        >>> by_group(gram(w, w, w, unit_dim=0), groups=2).ww
        tensor([ 5., 25.], dtype=torch.float64)
    """
    units = gram.ww.shape[-1]
    if groups < 1 or units % groups:
        msg = f"`groups` must divide the number of units, {units}, found {groups}"
        raise ValueError(msg)
    return Gram.from_columns(gram.columns().unflatten(-2, (groups, -1)).sum(-2))


def per_layer(names: Sequence[str], values: Float64[Tensor, " blocks"]) -> dict[str, float]:
    """One value for each layer: the root mean square over its units `"fc.weight[3]"`; a whole block is its own layer.

    For angles it is the angle of which the layer's mean squared turn is made, for an effective lr the value that
    gradients of one size would meet in the mean square. Units of zero norm, whose value is not finite, are left out.

    Example:
        >>> per_layer(["a[0]", "a[1]", "b"], torch.tensor([3.0, 4.0, 2.0], dtype=torch.float64))
        {'a': 3.535..., 'b': 2.0}
    """
    kept: dict[str, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        kept.setdefault(name.split("[")[0], []).append(value)
    tensors = {name: torch.tensor(squares, dtype=torch.float64) ** 2 for name, squares in kept.items()}
    return {name: float(squares[squares.isfinite()].mean().sqrt()) for name, squares in tensors.items()}
