"""Both recipes on the user's own training, for the same items: how far the weights really go."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from truestep.core._mean_loss import mean_loss
from truestep.loss.noise._ratio import FEWEST, Ratio, ratio_of_means
from truestep.recipe._recipe import Recipe

Problem = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """How far the weights went under a new recipe, against the old one, over the same number of items.

    Args:
        items: Items in one stretch: the smallest number that is a whole number of steps of both recipes.
        stretches: How many were run.
        ratio: Length of a stretch's displacement, new over old, of all weights together.
        blocks: The same for each block, by name.
        control: The same for the old recipe on other batches over the old recipe: what no change looks like.
        cosine: Of the two displacements from the start to the end.
        control_cosine: The same for the old recipe against itself on other batches.
        losses: Mean loss over the second half, old and new.
    """

    items: int
    stretches: int
    ratio: Ratio
    blocks: dict[str, Ratio]
    control: Ratio
    cosine: float
    control_cosine: float
    losses: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"over every {self.items} items the new recipe moves the weights {self.ratio} times as far as the old one, "
            f"which on other batches moves them {self.control} times as far; "
            f"cosine of the whole ways {self.cosine:.3f}, {self.control_cosine:.3f} on other batches; "
            f"loss {self.losses[0]:.4g} before, {self.losses[1]:.4g} after ({self.stretches} stretches)"
        )


@dataclass(frozen=True, slots=True)
class Way:
    """One run: the displacement's length for each stretch and block, its sum over all, and the loss of each stretch."""

    lengths: Tensor  # [stretches, blocks]
    whole: Tensor  # [weights]
    losses: list[float]


def probe(
    problem: Problem | Callable[[], Problem],
    old: Recipe,
    new: Recipe,
    steps: int = 20,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Probe:
    """Train copies of a model from the same weights by both recipes, and compare their true steps.

    The displacement is taken over stretches of equal numbers of items (one step of the larger batch, as many of the
    smaller as it holds). A third run, the old recipe on other batches, shows what chance does. The lr is constant; the
    model that is given stays untouched, and so do torch's random numbers.

    Args:
        problem: With keys "model" (a module, or a function of a seed that builds one), "batches" (a function of the
            batch size that gives one pass over full batches, shuffled by torch's random numbers) and "loss_fn" (of
            model and batch: a mean loss, or losses and weights); or a function that returns it.
        old: The recipe that is known.
        new: The recipe to compare.
        steps: Stretches, at least 8.
        seed: Of the order of the batches, and of dropout.
        on_step: Called after each stretch of each of the three runs with its number and their total.

    Raises:
        ValueError: Too few steps, a problem that lacks a key or gives no batch, an optimizer that torch does not have
            (give its class).

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.randn(512, 3))
        >>> problem = {
        ...     "model": torch.nn.Linear(3, 1),
        ...     "batches": lambda size: torch.utils.data.DataLoader(data, size, shuffle=True, drop_last=True),
        ...     "loss_fn": lambda model, batch: (model(batch[0]) - 1).square().mean(),
        ... }
        >>> from truestep.recipe import transfer
        >>> old = Recipe("sgd", lr=0.001, batch_size=16)
        >>> found = probe(problem, old, transfer(old, batch_size=64).recipe, steps=10)
        >>> found.items, round(found.ratio.value, 1)
        (64, 1.0)
    """
    problem = problem() if callable(problem) else problem
    _check(problem, steps)
    model: nn.Module = problem["model"] if isinstance(problem["model"], nn.Module) else problem["model"](seed)
    items = math.lcm(old.items_per_step, new.items_per_step)
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    ways: list[Way] = []
    for run, (recipe, order) in enumerate(((old, seed), (new, seed), (old, seed + 1))):
        with torch.random.fork_rng(sorted(devices)):
            torch.manual_seed(order)
            walk = _walk(problem, copy.deepcopy(model), recipe, items // recipe.items_per_step)
            told = _told(walk, steps, run, on_step)
            ways.append(_way(told, [p for p in model.parameters() if p.requires_grad]))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    return _compared(ways, names, items)


def _check(problem: Problem, steps: int) -> None:
    missing = [key for key in ("model", "batches", "loss_fn") if key not in problem]
    if missing:
        raise ValueError(f"`problem` needs the keys model, batches and loss_fn; `{missing[0]}` is missing")
    if steps < FEWEST:
        raise ValueError(f"`steps` must be at least {FEWEST}, for an interval; found {steps}")


def _walk(problem: Problem, model: nn.Module, recipe: Recipe, steps: int) -> Iterator[tuple[list[Tensor], float]]:
    """Weights after each stretch of `steps` steps, with its mean loss; without end."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(recipe, params)
    batches = _endless(problem["batches"], recipe.batch_size)
    micro = recipe.gradient_accumulation * recipe.world_size
    while True:
        seen = torch.zeros(2, dtype=torch.float64)
        for _ in range(steps):
            seen = seen + _step(problem["loss_fn"], model, optimizer, [next(batches) for _ in range(micro)], recipe)
        yield [p.detach().clone() for p in params], float(seen[0] / seen[1])


def _step(
    loss_fn: Callable[..., Any], model: nn.Module, optimizer: Optimizer, batches: list[Any], recipe: Recipe
) -> Tensor:
    """One optimizer step on the exact gradient of all its items; returns sum of losses and of weights."""
    optimizer.zero_grad()
    seen = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        loss, weight = mean_loss(loss_fn(model, batch))
        weight = loss.new_full((), recipe.batch_size) if weight is None else weight
        total = loss * weight.to(loss.dtype)
        total.backward()
        seen += torch.stack([total.detach().cpu().double(), weight.detach().cpu().double()])
    if recipe.reduction == "mean":
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.grad.div_(float(seen[1]))
    optimizer.step()
    return seen


def _told(walk: Iterator[Any], steps: int, run: int, on_step: Callable[[int, int], None] | None) -> Iterator[Any]:
    for step in range(steps):
        yield next(walk)
        if on_step is not None:
            on_step(run * steps + step + 1, 3 * steps)


def _way(walk: Iterator[tuple[list[Tensor], float]], start: list[Tensor]) -> Way:
    first = before = [p.detach().clone() for p in start]
    lengths: list[Tensor] = []
    losses: list[float] = []
    for weights, loss in walk:
        moved = [torch.linalg.vector_norm((w - b).double()) for w, b in zip(weights, before, strict=True)]
        lengths.append(torch.stack(moved).cpu())
        losses.append(loss)
        before = weights
    whole = torch.cat([(w - b).double().flatten() for w, b in zip(before, first, strict=True)]).cpu()
    return Way(torch.stack(lengths), whole, losses)


def _compared(ways: list[Way], names: list[str], items: int) -> Probe:
    old, new, other = ways
    half = len(old.losses) // 2
    return Probe(
        items=items,
        stretches=len(old.losses),
        ratio=_ratio(new.lengths.norm(dim=1), old.lengths.norm(dim=1)),
        blocks={name: _ratio(new.lengths[:, i], old.lengths[:, i]) for i, name in enumerate(names)},
        control=_ratio(other.lengths.norm(dim=1), old.lengths.norm(dim=1)),
        cosine=_cosine(new.whole, old.whole),
        control_cosine=_cosine(other.whole, old.whole),
        losses=(
            math.fsum(old.losses[half:]) / (len(old.losses) - half),
            math.fsum(new.losses[half:]) / (len(old.losses) - half),
        ),
    )


def _ratio(new: Tensor, old: Tensor) -> Ratio:
    return ratio_of_means(new.tolist(), old.tolist())


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def build_optimizer(recipe: Recipe, params: Iterable[nn.Parameter]) -> Optimizer:
    """The recipe's optimizer over these parameters, of its own class or torch's.

    Raises:
        ValueError: It is named, and torch has none of this name.
    """
    known, kind = recipe.known, recipe.optimizer
    if isinstance(kind, str):
        kind = getattr(torch.optim, known.torch or "missing", None)
        if kind is None:
            raise ValueError(f"`optimizer`: torch {torch.__version__} has no {known.name}; give its class to run it")
    takes = inspect.signature(kind).parameters
    betas = {"betas": recipe.betas} if "betas" in takes or recipe.betas is None else {"alpha": recipe.betas[1]}
    settings = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "momentum": recipe.momentum, "eps": recipe.eps}
    wanted = {name: value for name, value in (settings | betas).items() if value is not None}
    left_out = [name for name, value in wanted.items() if name not in takes and value]
    if left_out:
        raise ValueError(f"`optimizer`: {kind.__name__} takes no `{left_out[0]}`, which the recipe has")
    return kind(params, **{name: value for name, value in wanted.items() if name in takes})


def _endless(batches: Callable[[int], Iterable[Any]], size: int) -> Iterator[Any]:
    """One pass after the other."""
    while True:
        empty = True
        for batch in batches(size):
            empty = False
            yield batch
        if empty:
            raise ValueError(f"`batches({size})` gives no batch: are there fewer than {size} items?")
