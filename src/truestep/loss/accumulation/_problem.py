"""A user's window: the loop's gradient, the union batch's, and each micro-batch's own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from truestep.core._mean_loss import mean_loss
from truestep.loss.accumulation._averaging import Groups, num_ranks, total_over
from truestep.loss.accumulation._collate import fresh, joined, leaves
from truestep.loss.accumulation._comparison import Gradients
from truestep.loss.accumulation._evidence import Window
from truestep.loss.accumulation._window import has_training_batch_norm, taken, thinned

IGNORED = -100  # the target that torch's losses leave out


@dataclass(frozen=True, slots=True)
class Problem:
    """A model, its loss, the micro-batches of a window, the loop, how batches are joined, over which ranks."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], Any]
    micro_batches: tuple[Any, ...]
    backward: Callable[[Any, Any], object] | None = None
    collate: Callable[[Any], Any] | None = None
    groups: Groups = ()  # found before any forward pass: `fully_shard` hides there what is sharded

    def __post_init__(self) -> None:
        if not self.micro_batches:
            msg = "`micro_batches` is empty; give the batches of one window of accumulation"
            raise ValueError(msg)
        if not any(p.requires_grad for p in self.model.parameters()):
            msg = "`model` has no parameter that requires a gradient"
            raise ValueError(msg)

    def half(self) -> Problem | None:
        """The first half of the window; None for a single micro-batch."""
        size = len(self.micro_batches) // 2
        return replace(self, micro_batches=self.micro_batches[:size]) if size else None

    def loop(self) -> Gradients:
        """What the loop leaves in `.grad`."""
        batches = [fresh(batch) for batch in self.micro_batches]
        taken(self.model)
        with torch.enable_grad():
            if self.backward is None:
                for batch in batches:
                    (self._loss(batch)[0] / len(batches)).backward()
            else:
                try:
                    self.backward(self.model, batches)
                except Exception as error:
                    error.add_note(
                        f"on the first {len(batches)} micro-batches: `backward` must take any number of them"
                    )
                    raise
        return taken(self.model)

    def reference(self) -> tuple[Gradients, Window, torch.dtype | None]:
        """Gradient of the union batch, what is known about the window, and the narrowest float on the way."""
        with _narrowest() as seen, torch.enable_grad():
            with torch.no_grad():
                weighted = self._loss(fresh(self.micro_batches[0]))[1] is not None
            gradient, loss, weight = self._of_parts() if weighted else self._of_union()
        norm = has_training_batch_norm(self.model)
        window = Window(
            len(self.micro_batches),
            None if weight is None else float(weight),
            *_counted(self.micro_batches),
            batch_norm=norm,
            ranks=num_ranks(self.groups),
            loss=None if weight is None and self.groups else float(loss),
        )
        return gradient, window, min(seen, key=lambda dtype: -torch.finfo(dtype).eps, default=None)

    def parts(self) -> list[Gradients]:
        """Gradient of each micro-batch's own mean loss; none where these are averages over ranks."""
        if self.groups:
            return []
        return [thinned(self._gradient(batch)[0], len(self.micro_batches)) for batch in self.micro_batches]

    def _of_union(self) -> tuple[Gradients, Float64[Tensor, ""], None]:
        if self.collate is None:
            union = joined(self.micro_batches)
        else:
            union = self.collate([fresh(batch) for batch in self.micro_batches])
        return *self._gradient(union)[:2], None

    def _of_parts(self) -> tuple[Gradients, Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Weighted mean of the micro-batches' gradients and losses, and the sum of weights, all over all ranks."""
        total: Gradients = {}
        loss, weight = torch.zeros(2, dtype=torch.float64)
        for batch in self.micro_batches:
            gradient, mean, own = self._gradient(batch, summed=bool(self.groups))
            for name, x in gradient.items():
                wide = x.to(torch.promote_types(x.dtype, torch.float32))
                scaled = wide if self.groups else wide * own
                total[name] = total[name] + scaled if name in total else scaled
            loss, weight = loss.to(own.device) + mean * own, weight.to(own.device) + own
        loss, weight = total_over(self.groups, loss), total_over(self.groups, weight)
        return {name: x * (num_ranks(self.groups) / weight) for name, x in total.items()}, loss / weight, weight

    def _gradient(
        self, batch: Any, *, summed: bool = False
    ) -> tuple[Gradients, Float64[Tensor, ""], Float64[Tensor, ""]]:
        """Mean loss, weight and gradient, that of the sum if `summed`: an average over ranks must be one of sums."""
        taken(self.model)
        with torch.enable_grad():
            loss, weight = self._loss(fresh(batch))
            (loss * weight.to(loss.dtype) if summed and weight is not None else loss).backward()
        mean = loss.detach().double()
        return taken(self.model), mean, torch.ones_like(mean) if weight is None else weight

    def _loss(self, batch: Any) -> tuple[Float[Tensor, ""], Float64[Tensor, ""] | None]:
        return mean_loss(self.loss_fn(self.model, batch))


def _counted(
    micro_batches: tuple[Any, ...],
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...], tuple[int, ...]]:
    """As `Window` has them: counts and pairs of kept and all targets, in one order for every window, and lengths."""
    counts, targets, lengths = list[list[int]](), list[list[int]](), list[int]()
    for batch in micro_batches:
        own, pairs = list[int](), list[int]()
        for _, x in leaves(batch):
            if isinstance(x, Tensor) and x.dim():
                labels = x if not x.is_floating_point() and not x.is_complex() else x.new_zeros(())
                shifted = labels[..., 1:] if labels.dim() > 1 else labels
                kept, left = int((labels != IGNORED).sum()), int((shifted != IGNORED).sum())
                own += [len(x), x.numel(), kept, left]
                pairs += [kept, labels.numel(), left, shifted.numel(), left, labels.numel(), left, kept]
                lengths += [x.shape[1]] if labels.dim() > 1 else []
        counts.append(own)
        targets.append(pairs)
    summed = [[float(sum(column)) for column in zip(*rows, strict=False)] for rows in (counts, targets)]
    pairs_of_all = tuple(zip(summed[1][::2], summed[1][1::2], strict=True))
    return tuple(summed[0]), pairs_of_all, tuple(dict.fromkeys(lengths))


@contextmanager
def _narrowest() -> Generator[set[torch.dtype], None, None]:
    """Float dtypes of what is kept for the backward pass; under autocast these are narrower than the gradients."""
    seen = set[torch.dtype]()

    def see(x: Tensor) -> Tensor:
        if x.is_floating_point():
            seen.add(x.dtype)
        return x

    with torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
        yield seen
