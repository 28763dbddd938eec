"""curvlinops' linear operator around our products, and its estimators of spectrum and trace on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
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


SINGLE = 1e-5  # eigenvalues as close as this, by their size, are one


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
    A multiple of the identity, and the zero matrix of a linear loss, is one peak in the middle of the grid.

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
        if not scale:
            return _one_peak(0.0, points, operator.dtype)
        ends = [largest(_flat(operator, sign), start, 1, scale=scale, tolerance=1e-2)[0] for sign in (-1, 1)]
        low, high = -float(ends[0]), float(ends[1])
        if high - low <= SINGLE * max(abs(low), abs(high)):
            return _one_peak((low + high) / 2, points, operator.dtype)
        found = lanczos_approximate_spectrum(
            operator, lanczos, num_points=points, num_repeats=repeats, boundaries=(low, high)
        )
    return Spectrum(*found)


def _one_peak(value: float, points: int, dtype: torch.dtype) -> Spectrum:
    """Of a multiple of the identity, of the zero matrix too: as narrow as the grid shows."""
    grid = value + (abs(value) or 1.0) * torch.linspace(-1, 1, points, dtype=dtype)
    density = torch.zeros_like(grid)
    density[points // 2] = 1.0
    return Spectrum(grid, density / torch.trapezoid(density, grid))


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


@contextmanager
def each_called_once(model: nn.Module, layers: Mapping[str, nn.Module]) -> Generator[None, None, None]:
    """Raises where a forward pass of the model does not call each layer once; layers by name of a parameter.

    After an error the hooks that curvlinops leaves behind are taken off.

    Raises:
        ValueError: At the end of the forward pass; of a pass that comes again in the backward, at the end.
    """
    calls = dict.fromkeys(layers, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    def check(*_: Any) -> None:
        if other := [f"{n} calls of the layer of {name}" for name, n in calls.items() if n != 1]:
            msg = f"`model` must call each layer of `names` exactly once in a forward pass, found {other[0]}"
            raise ValueError(f"{msg}: its factors would be no K-FAC; leave its parameters out of `names`")
        calls.update(dict.fromkeys(calls, 0))

    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks: list[tuple[dict[int, Any], set[int]]] = [
        (vars(module)[kind], set(vars(module)[kind])) for module in {model, *layers.values()} for kind in kinds
    ]
    try:
        for name, layer in layers.items():
            layer.register_forward_hook(count(name))
        model.register_forward_hook(check)
        yield
        if again := [name for name, n in calls.items() if n]:
            msg = f"`model` must call each layer once, found that of {again[0]} called again in the backward pass"
            raise ValueError(f"{msg}: switch activation checkpointing off")
    finally:
        for now, before in hooks:
            for key in set(now) - before:
                del now[key]


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
