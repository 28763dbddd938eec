"""The gradients of the heads alone: of each task's loss at its own view of the features, and no further."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from truestep.multitask.balancing._split import Split

Gradients = dict[str, list[Tensor | None]]  # of each task, at each tensor of the features; None is zero


def head_gradients(losses: Mapping[str, Tensor], split: Split, scale: Mapping[str, Tensor] | None) -> Gradients:
    """Gradient of each loss, times its scale, at its own view; no `.grad` is written and the graph is kept.

    All heads go backward in one pass of autograd. A hook on any parameter (DDP's) stays silent.

    Raises:
        ValueError: A loss was not computed from its task's view.
    """
    tasks = [task for task, loss in losses.items() if loss.requires_grad]
    at = [x for task in tasks for x in split.inputs[task]]
    found = gradients([losses[task] for task in tasks], at, None if scale is None else [scale[t] for t in tasks])
    width = len(split.features)
    out = {task: found[i * width : (i + 1) * width] for i, task in enumerate(tasks)}
    for task, grads in out.items():
        if all(g is None for g in grads):
            msg = (
                f"the loss of {task!r} was not computed from its view: give its head views[{task!r}], not the features"
            )
            raise ValueError(msg)
    return out


def check_own_views(losses: Mapping[str, Tensor], split: Split, fresh: Iterable[str]) -> None:
    """Raise a ValueError where the loss of a `fresh` task reads the view of another, whose gradient it would mix."""
    for task in fresh:
        others = [other for other in split.inputs if other != task]
        at = [x for other in others for x in split.inputs[other]]
        if not losses[task].requires_grad:
            continue
        found = gradients([losses[task]], at, None)
        graph = nodes([losses[task]])
        if any(_is_static(node) for node in graph):
            msg = (
                "DistributedDataParallel(static_graph=True) takes the measuring pass through the heads for the backward"
                " pass, and gradients come out wrong: leave `static_graph` False"
            )
            raise ValueError(msg)
        compiled = any("Compiled" in node.name() for node in graph)  # one node for all of its inputs
        reads = [g is not None and not (compiled and bool((g == 0).all())) for g in found]
        read = [others[i // len(split.features)] for i, yes in enumerate(reads) if yes]
        if read:
            msg = f"the loss of {task!r} was computed from views[{read[0]!r}]: each loss must read its own view alone"
            raise ValueError(msg)
        if not compiled and _reads_beside(graph, split, task):
            msg = f"the loss of {task!r} reads the features beside views[{task!r}]: give its head the view alone"
            raise ValueError(msg)


def _reads_beside(graph: Sequence[Any], split: Split, task: str) -> bool:
    """Whether another node than the view takes the features; of several tensors one may be made from another."""
    (z, *more), views = split.features, {x.grad_fn for own in split.inputs.values() for x in own}
    if more or z.grad_fn is None or not {x.grad_fn for x in split.inputs[task]} & set(graph):
        return False
    source = (z.grad_fn, z.output_nr)
    takers = [node for node in graph if source in node.next_functions and node not in views]
    return any("DDPSink" not in node.name() for node in takers)  # that takes all that a wrapped model gives


def gradients(
    outputs: Sequence[Tensor], at: Sequence[Tensor | GradientEdge], seeds: Sequence[Tensor | None] | None
) -> list[Tensor | None]:
    """`torch.autograd.grad` that keeps the graph; None where an input took no part."""
    if not (outputs and at):
        return [None] * len(at)
    found: Any = torch.autograd.grad(  # it takes edges too, which its types do not tell
        outputs,
        cast("Any", at),
        grad_outputs=seeds,
        retain_graph=True,
        allow_unused=True,
    )
    return list(found)


def nodes(outputs: Sequence[Tensor], most: int | float = math.inf) -> list[Any]:
    """Nodes of the graph nearest to the outputs, breadth first."""
    ahead = [x.grad_fn for x in outputs if x.grad_fn is not None]
    seen: dict[Any, None] = dict.fromkeys(ahead)
    for node in ahead:
        if len(seen) > most:
            break
        fresh = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen |= dict.fromkeys(fresh)
        ahead += fresh
    return list(seen)


def _is_static(node: Any) -> bool:
    """Whether this is the end of a DDP module's forward pass that reduces when it first goes backward."""
    wrapper = getattr(node, "ddp_weakref", None)
    return wrapper is not None and bool(getattr(wrapper(), "static_graph", False))
