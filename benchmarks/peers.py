"""Public ways of measuring a step, as they are commonly written, to stand beside ours in the same run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.models import Job


def item_loop(job: Job) -> Callable[[], None]:
    """Clone every weight, then three `.item()` a tensor: update, weight and gradient norm, float32."""

    def step() -> None:
        before = {name: p.detach().clone() for name, p in job.model.named_parameters()}
        job.step()
        for name, p in job.model.named_parameters():
            (p.detach() - before[name]).norm().item(), p.detach().norm().item(), p.grad.norm().item()

    return step


def foreach(job: Job) -> Callable[[], None]:
    """Fresh copies and `_foreach_norm`, float32, one transfer: norms and the product of weight and update."""

    def step() -> None:
        params = [p.detach() for p in job.model.parameters()]
        before = [p.clone() for p in params]
        job.step()
        moved = torch._foreach_sub(params, before)
        grads = [p.grad for p in job.model.parameters()]
        norms = [n for group in (params, moved, grads) for n in torch._foreach_norm(group)]
        products = [torch.dot(w.flatten(), d.flatten()) for w, d in zip(before, moved, strict=True)]
        torch.stack(norms + products).tolist()

    return step
