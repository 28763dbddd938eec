"""The largest eigenvalues of the loss's curvature, checked, and in the mode that the model is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.conditioning.curvature._checks import UNCONFIRMED, asymmetry, finite_difference
from truestep.conditioning.curvature._eigen import largest
from truestep.conditioning.curvature._ggn_product import GGN
from truestep.conditioning.curvature._hessian_product import Hessian
from truestep.conditioning.curvature._operator import AbstractCurvature
from truestep.conditioning.curvature._preconditioner import preconditioner as preconditioner_of
from truestep.conditioning.curvature._problem import LossFn, Problem, problem, tensors_of
from truestep.conditioning.curvature._record import Matrix, Sharpness
from truestep.core import warn
from truestep.core._preserved import preserved

MODES_APART: Final = 5.0  # train and eval mode: from here on it is said
ROUGH: Final = (0.2, 7)  # tolerance and vectors for the other mode, of which the size is asked alone
FLOAT32: Final = torch.finfo(torch.float32).eps


def sharpness(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFn,
    *,
    k: int = 1,
    matrix: Matrix = "hessian",
    preconditioner: Optimizer | Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Sharpness:
    r"""The k largest eigenvalues of the Hessian or GGN of a batch's mean loss, in 1/weight².

    .. math:: \lambda_1 = \max_v \frac{v^\top H v}{v^\top v}, \qquad \text{preconditioned }
        \max_v \frac{v^\top P^{-1/2} H P^{-1/2} v}{v^\top v}

    Products by double backward, which are right where batches have statistics (BatchNorm in train mode), and scipy's
    `eigsh`: about 25 products for k = 1, each of 2 to 4 gradients. Compare with `edge(lr)`; L is a mean, and a summed
    loss has N times the sharpness. The loss of a batch, not of the training set, which is less sharp.

    Train or eval mode stays as it is; so do buffers, gradients and random state. Each call is checked: two random
    products for symmetry, and a finite difference along the first eigenvector, where 5 % are allowed: an error that
    hardly touches it passes. With dropout it is the curvature of one draw. The other mode is looked at roughly, and a
    warning says where it is 5 times apart: BatchNorm in eval mode has the outliers that it removes in training.

    Eigenvalues that repeat come as often as they do, which for k above 1 takes 20 to 50 products to know, and as many
    for each that repeats.

    Args:
        model: The model, bare or wrapped by DDP or torch.compile, in float32 or float64; each rank looks at its own
            batch.
        batch: What `loss_fn` takes.
        loss_fn: `loss_fn(model, batch)` gives a scalar mean, or unreduced losses and their weights.
        k: How many eigenvalues.
        matrix: "hessian", or "ggn" (see `ggn_product`).
        preconditioner: An Adam, AdamW or SGD with state, or what divides the gradient, by parameter name.
        seed: Of the random vectors; not of the model.

    Returns:
        A `Sharpness`; it prints as a line, with its warnings.

    Raises:
        ValueError: A check fails (something in the model has a wrong second derivative, or is detached, or
            rounding hides the curvature); or the arguments do not fit.
        ImportError: scipy is not installed, and the model has more than 14 elements.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> found = sharpness(model, x, lambda model, x: model(x).square().mean(), k=2)
        >>> found.eigenvalues, found.train_mode
        (tensor([9., 1.], dtype=torch.float64), True)
        >>> round(found.at_edge(lr=0.1), 3)  # 9 lr / 2: half way to divergence
        0.45

    References:
        Cohen et al. (2021), Gradient descent on neural networks typically occurs at the edge of stability; Cohen et al.
        (2022), Adaptive gradient methods at the edge of stability; Ghorbani et al. (2019), An investigation into neural
        net optimization via Hessian eigenvalue density.
    """
    one = problem(model, batch, loss_fn)
    _check(one, k, matrix)
    look = _Look({"hessian": Hessian, "ggn": GGN}[matrix](one), _root(one, preconditioner), seed)
    skew = look.asymmetry()
    values, vectors = look.largest(k)
    other, notes = _other_mode(look, float(values[0]))
    notes = (*_notes(look.curvature), *notes)
    difference = _agreeing(look.curvature, look.direction(vectors[0]))  # last: it spends the graph
    for note in notes:
        warn(note)
    return Sharpness(
        eigenvalues=values,
        matrix=matrix,
        preconditioned=preconditioner is not None,
        train_mode=one.model.training,
        loss=look.curvature.loss,
        products=look.products,
        other_mode=other,
        asymmetry=skew,
        difference=difference,
        warnings=notes,
    )


class _Look:
    """A curvature, seen through P^-1/2, on flat float64 vectors of the CPU."""

    def __init__(self, curvature: AbstractCurvature, root: Float64[Tensor, " n"] | None, seed: int) -> None:
        self.curvature, self.root, self.products = curvature, root, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.probes = torch.randn(2, curvature.problem.size, generator=self.generator, dtype=torch.float64)
        self.images = torch.stack([self.product(curvature, probe) for probe in self.probes])
        self.scale = float(self.images.norm() / self.probes.norm())

    def product(self, curvature: AbstractCurvature, vector: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Of this curvature or of the other mode's."""
        self.products += 1
        image = _flat(curvature.product(self.direction(vector)))
        return image if self.root is None else self.root * image

    def direction(self, vector: Float64[Tensor, " n"]) -> list[Tensor]:
        """The direction of the parameters that a flat vector stands for."""
        scaled = vector if self.root is None else self.root * vector
        parameters = self.curvature.problem.tensors
        parts = scaled.split([p.numel() for p in parameters])
        return [part.view(p.shape).to(p) for part, p in zip(parts, parameters, strict=True)]

    def asymmetry(self) -> float:
        """See `asymmetry`.

        Raises:
            ValueError: If it is more than rounding.
        """
        found, allowed = asymmetry(*self.probes, *self.images), 10 * self.curvature.problem.eps**0.5
        if not found <= allowed:
            msg = f"`model` has second derivatives that are not symmetric ({found:.1e}, {allowed:.0e} is rounding)"
            msg = f"{msg}: look for a custom backward (gradient reversal, straight-through), or autocast; float64 tells"
            raise ValueError(msg)
        return found

    def largest(self, k: int) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k n"]]:
        """The k largest eigenvalues and their vectors."""
        if not bool(self.images.any()):
            return torch.zeros(k, dtype=torch.float64), self.probes[:1].expand(k, -1)
        return largest(
            lambda v: self.product(self.curvature, v),
            self.start(self.images[0]),
            k,
            scale=self.scale,
            generator=self.generator,
        )

    def start(self, image: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Of a search: an image, in which the largest lead, and some noise, as it has no part with eigenvalue 0."""
        noise = self.probes[1]
        return image + 0.1 * image.norm() / noise.norm() * noise


def _other_mode(look: _Look, value: float) -> tuple[float | None, tuple[str, ...]]:
    """The largest eigenvalue with train and eval mode exchanged, roughly, and what is to be said of it."""
    problem = look.curvature.problem
    model, train = problem.model, problem.model.training
    with preserved(model):
        model.train(not train)
        try:
            other = type(look.curvature)(problem)
        except (ValueError, RuntimeError) as error:  # one sample under BatchNorm, say
            return None, (f"the model does not run in {'eval' if train else 'train'} mode ({error}): not compared",)
        image = look.product(other, look.probes[0])
        if float((image - look.images[0]).norm()) <= 1e3 * problem.eps * float(look.images[0].norm()):
            return value, ()
        tolerance, space = ROUGH
        scale = float(image.norm() / look.probes[0].norm())
        values, _ = largest(
            lambda v: look.product(other, v), look.start(image), 1, scale=scale, tolerance=tolerance, space=space
        )
    there = float(values[0])
    low, high = sorted((abs(value), abs(there)))
    if high <= MODES_APART * low:
        return there, ()
    in_train, in_eval = (value, there) if train else (there, value)
    msg = (
        f"sharpness is {in_train:.3g} in train mode, {in_eval:.3g} in eval mode (one of them roughly): batch statistics"
    )
    return there, (f"{msg} or dropout are part of what training meets, so train mode is the one to hold against 2/lr",)


def _notes(curvature: AbstractCurvature) -> tuple[str, ...]:
    """What is to be said of the evaluation."""
    model = curvature.problem.model
    mixed = [name for name, module in model.named_modules() if module.training != model.training]
    notes = ["the loss draws random numbers (dropout): this is the curvature of one draw"] if curvature.drew else []
    if mixed:
        mode, other = ("train", "eval") if model.training else ("eval", "train")
        notes.append(f"the model is in {mode} mode, but {', '.join(mixed[:3])} in {other} mode: taken as they are")
    return tuple(notes)


def _agreeing(curvature: AbstractCurvature, direction: list[Tensor]) -> float:
    """The finite difference's disagreement.

    Raises:
        ValueError: If it is more than what kinks and rounding make of it.
    """
    found = finite_difference(curvature, direction)
    if not found <= UNCONFIRMED:
        msg = f"`model` has second derivatives that a finite difference does not confirm (off by {found:.2g} of them)"
        msg = f"{msg}: look for detached statistics, a custom backward, or a loss that is not the same twice"
        raise ValueError(f"{msg}; in float64 rounding is no cause")
    return found


def _check(problem: Problem, k: int, matrix: str) -> None:
    """Raise where the arguments do not fit."""
    if matrix not in ("hessian", "ggn"):
        raise ValueError(f'`matrix` must be "hessian" or "ggn", found {matrix!r}')
    if not 1 <= k <= problem.size:
        raise ValueError(f"`k` must be from 1 to the number of parameters, {problem.size}; found {k}")
    if problem.eps > FLOAT32:
        name = next(name for name, p in problem.parameters.items() if torch.finfo(p.dtype).eps == problem.eps)
        msg = f"`model` must be in float32 or float64, found {problem.parameters[name].dtype} ({name})"
        raise ValueError(f"{msg}: its rounding hides the curvature; give copy.deepcopy(model).float()")


def _root(problem: Problem, given: Optimizer | Mapping[str, Tensor] | None) -> Float64[Tensor, " n"] | None:
    """P^-1/2, flat; None for the identity."""
    if given is None:
        return None
    divides = preconditioner_of(given, problem.parameters) if isinstance(given, Optimizer) else given
    flat = _flat(tensors_of(problem, divides, "preconditioner"))
    if not bool((flat > 0).all()):
        raise ValueError("`preconditioner` must be positive everywhere; found zero, negative or nan elements")
    return flat.rsqrt()


def _flat(tensors: list[Tensor]) -> Float64[Tensor, " n"]:
    return torch.cat([x.detach().reshape(-1).to("cpu", torch.float64) for x in tensors])
