"""curvlinops' linear operator around our products, and its estimators of spectrum and trace on it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truestep.conditioning.curvature._eigen import largest
from truestep.conditioning.curvature._ggn_product import GGN
from truestep.conditioning.curvature._hessian_product import Hessian
from truestep.conditioning.curvature._problem import LossFn, problem
from truestep.conditioning.curvature._record import Matrix
from truestep.core._names import unwrapped
from truestep.core._preserved import preserved

if TYPE_CHECKING:
    from curvlinops._torch_base import PyTorchLinearOperator as Operator
else:
    try:
        with warnings.catch_warnings():  # linear_operator, which it imports, uses torch.jit.script
            warnings.simplefilter("ignore", DeprecationWarning)
            from curvlinops._torch_base import PyTorchLinearOperator as Operator
    except ImportError:  # said when one is built
        Operator = object


class Spectrum(NamedTuple):
    """A density of eigenvalues: `density` at `grid`, of integral 1."""

    grid: Float[Tensor, " points"]
    density: Float[Tensor, " points"]


class CurvatureOperator(Operator):
    """Our Hessian or GGN as a linear operator of curvlinops: for its estimators, inverses and submatrices.

    Its products are right in train mode too, where curvlinops' own HessianLinearOperator stops at BatchNorm, or, with
    the usual way around, gives wrong rows. Good until the weights change.

    Args:
        model: As `hessian_product` takes it; parameters of one dtype on one device.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)`.
        matrix: "hessian" or "ggn".

    Raises:
        ValueError: As `hessian_product` and `ggn_product`; or for several dtypes or devices.
        ImportError: curvlinops is not installed.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> operator = CurvatureOperator(model, x, lambda model, x: model(x).square().mean())
        >>> operator @ torch.eye(2)
        tensor([[1., 0.],
                [0., 4.]])
    """

    SELF_ADJOINT: bool = True

    def __init__(self, model: nn.Module, batch: Any, loss_fn: LossFn, matrix: Matrix = "hessian") -> None:
        require_curvlinops()
        one = problem(model, batch, loss_fn)
        kinds = {(p.dtype, p.device) for p in one.tensors}
        if len(kinds) > 1:
            found = sorted(f"{dtype} on {device}" for dtype, device in kinds)
            raise ValueError(f"`model` must have parameters of one dtype on one device for curvlinops; found {found}")
        ((self._dtype, self._device),) = kinds
        self._curvature = {"hessian": Hessian, "ggn": GGN}[matrix](one)
        shapes = [tuple(p.shape) for p in one.tensors]
        super().__init__(shapes, shapes)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self._device

    def _matmat(self, X: list[Tensor]) -> list[Tensor]:
        """Products with the columns, which are the last dimension."""
        columns = [self._curvature.product([x[..., i] for x in X]) for i in range(X[0].shape[-1])]
        return [torch.stack(parts, -1) for parts in zip(*columns, strict=True)]


def spectrum(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFn,
    *,
    matrix: Matrix = "hessian",
    lanczos: int = 60,
    repeats: int = 1,
    points: int = 1024,
    seed: int = 0,
) -> Spectrum:
    """Density of the eigenvalues, by stochastic Lanczos quadrature of curvlinops on our products.

    For pictures: the kernel smears what lies close, and most lies at 0. Counts of outliers come from `sharpness(k=)`.

    Args:
        model: As `hessian_product` takes it, in the mode it is in.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)`.
        matrix: "hessian" or "ggn".
        lanczos: Products of one quadrature, fewer than there are parameters.
        repeats: Random vectors averaged over.
        points: Length of the grid.
        seed: Of the random vectors.

    References:
        Papyan (2020), Traces of class/cross-class structure pervade deep learning spectra, alg. 2.
    """
    operator = CurvatureOperator(model, batch, loss_fn, matrix)
    from curvlinops import lanczos_approximate_spectrum

    with preserved(unwrapped(model)):
        torch.manual_seed(seed)
        start = torch.randn(operator.shape[1], dtype=torch.float64)
        scale = float(_flat(operator, 1)(start).norm() / start.norm())
        ends = [largest(_flat(operator, sign), start, 1, scale=scale, tolerance=1e-2)[0] for sign in (-1, 1)]
        low, high = -float(ends[0]), float(ends[1])
        found = lanczos_approximate_spectrum(
            operator, lanczos, num_points=points, num_repeats=repeats, boundaries=(low, high)
        )
    return Spectrum(*found)


def trace(
    model: nn.Module, batch: Any, loss_fn: LossFn, *, matrix: Matrix = "hessian", products: int = 99, seed: int = 0
) -> float:
    """Trace of the Hessian or GGN, estimated by Hutch++ of curvlinops on our products.

    Args:
        model: As `hessian_product` takes it, in the mode it is in.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)`.
        matrix: "hessian" or "ggn".
        products: How many, divisible by 3 and fewer than there are parameters; the indefinite Hessian needs about 100
            for a few percent.
        seed: Of the random vectors.

    References:
        Meyer et al. (2021), Hutch++: optimal stochastic trace estimation.
    """
    operator = CurvatureOperator(model, batch, loss_fn, matrix)
    from curvlinops import hutchpp_trace

    with preserved(unwrapped(model)):
        torch.manual_seed(seed)
        return float(hutchpp_trace(operator, products))


def _flat(operator: CurvatureOperator, sign: int) -> Any:
    """Products on float64 vectors of the CPU, of the operator or of its negative."""

    def product(v: Tensor) -> Tensor:
        image: Any = operator @ v.to(operator.device, operator.dtype)
        return sign * image.to("cpu", torch.float64)

    return product


def require_curvlinops() -> None:
    """Raise where curvlinops is not installed."""
    if Operator.__module__ == "builtins":
        msg = (
            "this needs curvlinops, without the torchvision that it asks for: pip install 'truestep[curvature]' && "
            "pip install --no-deps curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1"
        )
        raise ImportError(msg)
