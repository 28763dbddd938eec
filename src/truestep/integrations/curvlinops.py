"""curvlinops: K-FAC and EKFAC by parameter name, and its estimators of spectrum and trace on our products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from truestep.core._names import named_parameters, unwrapped
from truestep.core._preserved import preserved
from truestep.integrations._curvlinops import (
    CurvatureOperator,
    Spectrum,
    each_called_once,
    require_curvlinops,
    spectrum,
    trace,
)

__all__ = ["CurvatureOperator", "KFac", "Spectrum", "kfac_direction", "spectrum", "trace"]

Pairs = Sequence[tuple[Tensor, Tensor]]
Fisher = Literal["type-2", "mc", "empirical", "forward-only"]
Damping = Literal["shared", "factors", "exact"]
LEAST: Final = 1e-8  # curvlinops' own least damping of a factor, where it is shared


def kfac_direction(
    model: nn.Module,
    data: Pairs,
    loss: nn.Module,
    gradients: Mapping[str, Tensor],
    *,
    damping: float = 1e-3,
    how: Damping = "shared",
    **settings: Any,
) -> dict[str, Tensor]:
    r"""K-FAC's direction for a gradient: what to put in its place before a step of SGD.

    .. math:: (\bar A + d_A)^{-1} \otimes (S + d_S)^{-1}\, \operatorname{vec}(\bar G), \qquad
        \bar A = \mathbb{E}[\bar a \bar a^\top], \quad S = \mathbb{E}[\delta \delta^\top]

    One block a layer, weight and bias together: inputs :math:`\bar a = (a; 1)`, :math:`\bar G = (G_W, g_b)`. The mean
    over samples for a mean loss; for a sum curvlinops sums S.

    Args:
        model: Linear and Conv2d layers, and anything without parameters.
        data: Inputs and targets the factors are made of.
        loss: `nn.CrossEntropyLoss`, `nn.MSELoss` or `nn.BCEWithLogitsLoss`.
        gradients: Of the mean loss, by parameter name; these parameters are meant.
        damping: See `KFac.solve`.
        how: See `KFac.solve`.
        settings: `fisher`, `corrected`, `seed`, `previous`, `ema`, as `KFac` takes them.

    Returns:
        The direction, by name. Factors are of this moment; hold a `KFac` to average them over steps.

    Raises:
        ValueError: As `KFac`.
        ImportError: curvlinops is not installed.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model, x, y = torch.nn.Linear(2, 1), torch.randn(8, 2), torch.randn(8, 1)
        >>> loss = torch.nn.MSELoss()
        >>> loss(model(x), y).backward()
        >>> gradients = {name: p.grad for name, p in model.named_parameters()}
        >>> step = kfac_direction(model, [(x, y)], loss, gradients, damping=0.0)
        >>> with torch.no_grad():  # least squares: its GGN is K-FAC's, one step is Newton's
        ...     for name, p in model.named_parameters():
        ...         _ = p.sub_(step[name])
        >>> x1 = torch.cat([x, torch.ones(8, 1)], 1)
        >>> torch.allclose(model(x), x1 @ torch.linalg.lstsq(x1, y).solution, atol=1e-5)
        True

    References:
        Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature; Dangel et
        al. (2025), Position: curvature matrices should be democratized via linear operators (curvlinops).
    """
    return KFac(model, data, loss, names=list(gradients), **settings).solve(gradients, damping, how=how)


class KFac:
    """K-FAC of a model on some data, from curvlinops, with vectors by parameter name.

    The factors are those of the weights at construction. Weight and bias of a layer are one block. Buffers, gradients
    and random state are left as they were.

    Args:
        model: The model, bare or wrapped; K-FAC of those of its parameters that lie in Linear and Conv2d layers.
        data: Pairs of inputs and targets.
        loss: `nn.CrossEntropyLoss`, `nn.MSELoss` or `nn.BCEWithLogitsLoss`, with reduction "mean" or "sum".
        names: Parameters to take; by default all that require a gradient.
        fisher: "type-2" (exact, one backward pass a class), "mc" (labels drawn once), "empirical", or "forward-only"
            (S = I: FOOF, the full form of `Standardizing`).
        corrected: EKFAC: eigenvalues in the factors' basis from the samples themselves.
        seed: Of the drawn labels.
        previous: A `KFac` to average the factors with.
        ema: Share of the previous factors.

    Raises:
        ValueError: If a parameter lies elsewhere (in BatchNorm, say), or in a convolution with groups or other padding
            than zeros; if it is shared by several modules, or its layer is not called exactly once in a forward pass
            (a recurrent one, say); if the loss weighs or ignores targets; if names are unknown, or EKFAC is averaged.
        ImportError: curvlinops is not installed.

    Note: Deviation
        K-FAC takes samples as independent; under BatchNorm in train mode they are not, and its factors leave the path
        through the statistics out. `hessian_product` and `ggn_product` have it.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Pairs,
        loss: nn.Module,
        *,
        names: Sequence[str] | None = None,
        fisher: Fisher = "type-2",
        corrected: bool = False,
        seed: int = 0,
        previous: KFac | None = None,
        ema: float = 0.0,
    ) -> None:
        require_curvlinops()
        from curvlinops import EKFACLinearOperator, KFACLinearOperator

        layers = _supported(model, names)
        known = named_parameters(model)
        self.parameters = {name: known[name] for name in layers}
        _check_loss(loss, data)
        bare, tensors = unwrapped(model), list(self.parameters.values())
        kind: Any = EKFACLinearOperator if corrected else KFACLinearOperator
        settings: Any = {"fisher_type": fisher, "seed": seed, "separate_weight_and_bias": False}
        settings["check_deterministic"] = False  # it would run everything twice more
        with preserved(bare), torch.enable_grad(), each_called_once(bare, layers):
            self._operator: Any = kind(bare, loss, tensors, data, **settings)
            _ = self._operator @ [torch.zeros_like(p) for p in tensors]  # makes the factors
        if previous is not None:
            self._average(previous, ema)

    def product(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The matrix times a vector."""
        return self._named(self._operator @ self._listed(vector))

    def solve(self, vector: Mapping[str, Tensor], damping: float, *, how: Damping = "shared") -> dict[str, Tensor]:
        r"""The damped inverse times a vector.

        Args:
            vector: By name.
            damping: :math:`\lambda`, in the matrix's unit.
            how: "shared": :math:`\pi\sqrt\lambda` added to A and :math:`\sqrt\lambda/\pi` to S (Martens and Grosse,
                sec. 6.3). "factors": :math:`\lambda` added to each. "exact": added to the product, in its eigenbasis;
                the only one for EKFAC.
        """
        from curvlinops import KFACInverseLinearOperator

        shared = how == "shared" and damping > LEAST**2  # at 0 nothing is to be added, where curvlinops adds its least
        inverse: Any = KFACInverseLinearOperator(
            self._operator, damping=damping, use_heuristic_damping=shared, use_exact_damping=how == "exact"
        )
        return self._named(inverse @ self._listed(vector))

    def trace(self) -> float:
        """Trace of the matrix."""
        return float(self._operator.trace)

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each layer's A, of the inputs with a 1 for the bias, and S, of the gradients at its outputs."""
        state = self._operator.state_dict()
        inputs, outputs = state["input_covariances"], state["gradient_covariances"]
        return {name: (a, outputs[name]) for name, a in inputs.items()}

    def _average(self, previous: KFac, ema: float) -> None:
        """In place: what curvlinops shows of its factors is what it multiplies by."""
        mine, old = self.factors, previous.factors
        if not mine or {name: a.shape for name, (a, _) in mine.items()} != {
            name: a.shape for name, (a, _) in old.items()
        }:
            raise ValueError("`previous` must be a K-FAC of the same layers, and not EKFAC, whose bases differ")
        for name, pair in mine.items():
            for new, before in zip(pair, old[name], strict=True):
                new.lerp_(before, ema)

    def _listed(self, vector: Mapping[str, Tensor]) -> list[Tensor]:
        if unlike := set(vector) ^ set(self.parameters):
            raise ValueError(f"`vector` must have the names of the parameters; differs in {sorted(unlike)}")
        return [vector[name].detach().to(p) for name, p in self.parameters.items()]

    def _named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.parameters, tensors, strict=True))


def _supported(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers of the parameters to take, by the parameters' names.

    Raises:
        ValueError: If one is unknown, or lies in a layer that K-FAC does not know, or in several.
    """
    known = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    names = list(known) if names is None else list(names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"`names` must be parameters of the model that require a gradient; found {unknown}")
    owners: dict[int, list[nn.Module]] = {}
    for module in unwrapped(model).modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(module)
    for name in names:
        owner, *others = owners[id(known[name])]
        if others:
            kinds = " and ".join(type(m).__name__ for m in (owner, *others))
            msg = f"`names` must lie in one module each; {name} is shared by {kinds}"
            raise ValueError(f"{msg}: K-FAC has no factors of both; name the others alone")
        _check_layer(name, owner)
    return {name: owners[id(known[name])][0] for name in names}


def _check_layer(name: str, owner: nn.Module) -> None:
    """Raise where K-FAC does not know the layer of a parameter."""
    if isinstance(owner, nn.modules.batchnorm._BatchNorm) and owner.training:  # pyright: ignore[reportPrivateUsage]
        msg = f"`names` has {name}, of {type(owner).__name__} in train mode, whose statistics join the samples"
        raise ValueError(f"{msg}: K-FAC has no such factor; name the Linear and Conv2d parameters alone")
    if not isinstance(owner, nn.Linear | nn.Conv2d):
        msg = f"`names` must lie in Linear or Conv2d layers; {name} is of {type(owner).__name__}"
        raise ValueError(f"{msg}: name the others alone")
    if isinstance(owner, nn.Conv2d) and (owner.groups > 1 or owner.padding_mode != "zeros"):
        msg = f"`names` must lie in convolutions without groups, padded with zeros; {name} does not"
        raise ValueError(f"{msg}: curvlinops would take other inputs for its own")


def _check_loss(loss: nn.Module, data: Pairs) -> None:
    """Raise where the loss weighs its terms: curvlinops 3.0 leaves the weights out of the type-2 factors unsaid."""
    if getattr(loss, "weight", None) is not None or getattr(loss, "pos_weight", None) is not None:
        raise ValueError("`loss` must not weigh classes: curvlinops leaves the weights out of its factors")
    ignored = getattr(loss, "ignore_index", None)
    if ignored is not None and any(bool((y == ignored).any()) for _, y in data):
        raise ValueError("`data` must not have ignored targets: curvlinops counts them in its factors; leave them out")
