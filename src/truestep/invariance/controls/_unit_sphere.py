"""Weights projected back onto their sphere after each step, so that lr alone sets the effective lr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.optim import Optimizer

from truestep.core import warn
from truestep.core._around import Around, check_beside, keeps
from truestep.core._hooks import check_hooks
from truestep.core._sharding import local
from truestep.invariance.controls._groups import check_stepped
from truestep.invariance.controls._row_norms import Per, part_of_column, row_norms, whole_column


def projection_factor(
    norm: Float64[Tensor, " rows"], radius: Float64[Tensor, " rows"], tolerance: float | Float64[Tensor, " rows"] = 0.0
) -> Float64[Tensor, " rows"]:
    """What rows of this norm are multiplied with to have this radius; 1 within `tolerance`, and for a norm of 0.

    Example:
        >>> one = torch.ones(3, dtype=torch.float64)
        >>> projection_factor(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64), one)
        tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    factor = radius / norm
    leave = ((factor - 1).abs() <= tolerance) | (norm == 0)
    return torch.where(leave, torch.ones_like(factor), factor)


def rounding(dtype: torch.dtype) -> float:
    """How far the norm of a projected row may be from its radius by rounding: closer ones are left alone.

    Projecting twice then changes no bit, which a skipped step and a resumed run rely on.
    """
    return 0.5 * torch.finfo(dtype).eps + 8 * torch.finfo(_factor_dtype(dtype)).eps


class UnitSphere:
    r"""Projects scale-invariant weights back onto their sphere after each step of `optimizer`.

    .. math:: w \leftarrow \rho\, \frac{w + d}{\|w + d\|}, \qquad \text{SGD: } \tan\theta_t =
        \frac{\eta_t}{\rho^2}\, \|\nabla L(w_t/\|w_t\|)\|

    The norm no longer grows, so the effective lr :math:`\eta/\|w\|^2` is :math:`\eta/\rho^2` at every step, and lr
    itself where :math:`\rho = 1`. It is the same as SGD without projection whose lr is :math:`\alpha\|w_t\|^2`, unit
    by unit. Works beside any optimizer; the projection is the last word on the weights, whatever momentum or Adam did.

    Only for weights whose norm the loss does not see (`find_symmetries` finds them). Attach it before the first step:
    momentum gathered at another norm is left as it is.

    Args:
        optimizer: Any `torch.optim.Optimizer` with step hooks that steps all of `params`.
        params: The weights by name; under FSDP2 or DDP those of the wrapped model.
        per: What is projected: each slice along the first dimension (BatchNorm, WeightNorm) or the tensor as a whole
            (LayerNorm, GroupNorm, where single rows have a scale).
        radius: Norm to keep. None keeps what each unit (or tensor) has now, which changes nothing of the network; a
            number moves the weights there at once.

    Raises:
        ValueError: If `optimizer` does not step one of `params`, a tensor has no units, a unit has norm 0, `radius` is
            not positive, or another `UnitSphere` or an `ExponentialTwin` keeps their norms already.

    Note:
        Weight decay on projected weights only raises the effective lr, to :math:`\eta/(1-\eta\lambda)/\rho^2`: a
        warning says so. A skipped step leaves all bits as they are, since projecting twice changes nothing; so rows
        within rounding of their radius are left alone. The units of a transposed convolution lie along its second
        dimension: not supported.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> sphere = UnitSphere(optimizer, {"fc.weight": weight}, radius=1.0)
        >>> weight.grad = torch.tensor([[0.0, -1.0], [0.0, 0.0]])
        >>> optimizer.step()
        >>> weight.data
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])

    References:
        Grosse, CSC 2541 (2021), lecture 5: "explicitly normalize each w_j to unit norm. Then the effective LR is just
        alpha". Note: Deviation: the radius may be another than 1 for each unit.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        params: Mapping[str, Tensor],
        *,
        per: Per = "unit",
        radius: int | float | None = None,
    ) -> None:
        check_hooks(optimizer)
        check_stepped(optimizer, params)
        self._params = dict(params)
        self._per: Per = per
        _check(self._params, per, radius)
        check_beside(optimizer, kept := keeps("UnitSphere", ["norms"], params.values()))
        _warn_of_decay(optimizer, self._params)
        norms = row_norms([*self._params.values()], per)
        whole = {name: whole_column(norm, x, per) for (name, x), norm in zip(self._params.items(), norms, strict=True)}
        _check_norms(whole)
        self._keep(whole if radius is None else {name: torch.full_like(x, radius) for name, x in whole.items()})
        if radius is not None:
            self._project()
        self._around = Around(optimizer, first=self._project, keeps=kept)

    def state_dict(self) -> dict[str, Any]:
        """The radii by name: of all units, also where this rank holds a part of them."""
        return {"radii": {name: radius.clone() for name, radius in self._radii.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the radii of `state`; load the weights too, else the next step moves them there."""
        radii = state["radii"]
        found = {name: tuple(radius.shape) for name, radius in radii.items()}
        expected = {name: tuple(radius.shape) for name, radius in self._radii.items()}
        if found != expected:
            msg = f"`state` must hold radii of shapes {expected}, found {found}; pass the `params` it was saved with"
            raise ValueError(msg)
        self._keep({name: radii[name].to(radius) for name, radius in self._radii.items()})

    def close(self) -> None:
        """Take the hooks off; the weights stay where they are."""
        self._around.close()

    def _keep(self, whole: dict[str, Tensor]) -> None:
        """Note the radii, and those of this rank's rows one behind another: one division for all tensors."""
        self._radii = whole
        parts = [part_of_column(radius, self._params[name], self._per) for name, radius in whole.items()]
        self._rows = [part.shape[0] for part in parts]
        device = parts[0].device
        self._radius = torch.cat([part.to(device) for part in parts])
        widths = [rounding(x.dtype) for x in self._params.values()]
        each = [torch.full((n,), width, dtype=torch.float64) for n, width in zip(self._rows, widths, strict=True)]
        self._tolerance = torch.cat(each).to(device)

    @torch.no_grad()
    def _project(self) -> None:
        norms = row_norms([*self._params.values()], self._per)
        joined = torch.cat([norm.to(self._radius.device) for norm in norms])
        factors = projection_factor(joined, self._radius, self._tolerance).split(self._rows)
        for x, factor in zip(map(local, self._params.values()), factors, strict=True):
            x.mul_(factor.to(x.device, _factor_dtype(x.dtype)).view(-1, *[1] * (x.dim() - 1)))


def _factor_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which format a factor is rounded less than the weights, or as they are."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def _check(params: Mapping[str, Tensor], per: Per, radius: int | float | None) -> None:
    if per not in ("unit", "tensor"):
        msg = f'`per` must be "unit" or "tensor", found {per!r}'
        raise ValueError(msg)
    least = 2 if per == "unit" else 1
    flat = {name: tuple(x.shape) for name, x in params.items() if x.dim() < least}
    if flat:
        msg = f'`params` must have {least} dimensions or more for per="{per}", found {flat}; leave them out'
        raise ValueError(msg)
    if radius is not None and not 0 < radius < torch.inf:
        msg = f"`radius` must be a positive number, or None for the norms as they are, found {radius}"
        raise ValueError(msg)


def _check_norms(norms: Mapping[str, Tensor]) -> None:
    """Waits for the device, once."""
    for name, norm in norms.items():
        bad = (~((norm > 0) & norm.isfinite())).nonzero().flatten().tolist()
        if bad:
            msg = (
                f"`params` must have units with a direction: {name!r} has {len(bad)} of norm 0 or not finite, the "
                f"first is number {bad[0]}; initialise them, or leave the tensor out"
            )
            raise ValueError(msg)


def _warn_of_decay(optimizer: Optimizer, params: Mapping[str, Tensor]) -> None:
    named = {id(p) for p in params.values()}
    for index, group in enumerate(optimizer.param_groups):
        if any(id(p) in named for p in group["params"]) and float(group.get("weight_decay", 0.0)):
            message = (
                f"`optimizer` decays the projected weights of group {index}: decay cannot shorten them, it only raises "
                "their effective lr to lr / (1 - lr * weight_decay) / radius**2; set their weight_decay to 0"
            )
            warn(message, stacklevel=4)
