"""The gradient noise scale of a training run, from the micro-batches or ranks that it has anyway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor

from truestep.core import is_distributed, squared_norm, warn
from truestep.loss._scale_lr import Number
from truestep.loss.noise._noise_sums import NoiseSums, noise_and_signal, noise_sums
from truestep.loss.noise._ratio import FEWEST, Ratio, ratio_of_means

NONE_USABLE: Final = "each needs two micro-batches or ranks, and finite gradients"


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """Noise scale in items with its interval; nan with the reason where the windows do not resolve it.

    An order of magnitude: on digits it was 3.5 to 14 times the batch size at which doubling stops to pay.

    Example:
        >>> print(NoiseEstimate(79.4, 72.9, 86.3, windows=200))
        noise scale 79.4 [72.9, 86.3] items (200 windows)
    """

    value: float
    low: float
    high: float
    windows: int
    reason: str = ""

    @property
    def resolved(self) -> bool:
        """Whether there is a number; `low` alone may still be one if there is none."""
        return not self.reason

    def __str__(self) -> str:
        if self.resolved:
            return f"noise scale {self.value:.3g} [{self.low:.3g}, {self.high:.3g}] items ({self.windows} windows)"
        above = f", above {self.low:.3g} items" if self.low > 0 else ""
        return f"noise scale not resolved{above} ({self.windows} windows: {self.reason})"


class NoiseScale:
    r"""Gradient noise scale :math:`\operatorname{tr}\Sigma / \|G\|^2`, in items: where noise and signal are equal.

    :math:`G` is the gradient of the mean loss over all data, :math:`\Sigma` the covariance of one item's gradient.
    Hooks on the parameters read the norm of each micro-batch's gradient as it arrives (on each rank before the ranks'
    reduction), and the window's comes from `.grad`: from the difference follow both, without bias, for any sizes.
    One pass over each gradient, one all_reduce of four numbers a window, and nothing waits for the device.

    Numerator and denominator are averaged separately over windows; a ratio for each window would be biased. The
    interval is Fieller's; while :math:`\|G\|^2` may be 0 there is no number. What an item is, you say: items must be
    drawn independently, so count sequences, not their tokens. Layers that mix items (BatchNorm) blur its meaning.

    Args:
        parameters: Those whose gradient is meant: `model.parameters()`.
        last: Windows that an estimate looks back on; the noise scale grows during training.
        reduced: How `.grad` is reduced over the ranks when `window` sees it. "mean": DDP. "sum": added. "none": each
            rank has its own, and its own estimate.
        group: Ranks that share the batch; None is all of them.

    Raises:
        ValueError: No parameter wants a gradient, or one is sharded: its gradients never pass the hooks.

    Example:
        A gradient with mean 1 and variance 9 in one dimension:

        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> noise = NoiseScale([weight])
        >>> for _ in range(200):
        ...     weight.grad = None
        ...     for items in (8, 16, 8):
        ...         loss = (weight * (1 + 3 * torch.randn(items))).mean()
        ...         (loss * items / 32).backward()
        ...         noise.micro(items, factor=items / 32)
        ...     noise.window()
        >>> print(noise.estimate())
        noise scale ... items (200 windows)
        >>> noise.close()

    References:
        McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, section 2.2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        last: int = 200,
        reduced: Literal["mean", "sum", "none"] = "mean",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if reduced not in {"mean", "sum", "none"}:
            raise ValueError(f"`reduced` must be one of mean, sum, none; found {reduced!r}")
        if last < FEWEST:
            raise ValueError(f"`last` must be at least {FEWEST} windows, for an interval; found {last}")
        self._parameters = [p for p in parameters if p.requires_grad]
        _check(self._parameters)
        self._reduced, self._group, self._last = reduced, group, last
        device = self._parameters[0].device
        self._rows = torch.full((last, 2), torch.nan, dtype=torch.float64, device=device)  # noise, signal: a ring
        self._count = 0  # windows so far
        self._sums: NoiseSums | None = None
        self._square: Float64[Tensor, ""] | None = None  # of the gradient that has come since the last `micro`
        self._seen = [False] * len(self._parameters)
        self._handles = [p.register_hook(partial(self._note, i)) for i, p in enumerate(self._parameters)]

    def micro(self, items: Number | Tensor, factor: Number | Tensor = 1.0) -> None:
        """Say what the backward that has just ended was; one `backward` each.

        Args:
            items: How many there were; for items of unequal weight (Σw)²/Σw².
            factor: By what the gradient of their *mean* loss was multiplied: 1 for a mean loss, `items` for a summed
                one (and for a `Tally`), 1/k for a mean divided by k. What is common to a window may be left out;
                what changes from window to window (the scale of a GradScaler) weights the windows if it is.

        Raises:
            RuntimeError: No gradient has arrived since the last call.
        """
        if self._square is None:
            raise RuntimeError(
                "`micro` found no new gradient: call it once after each `backward`, also under `no_sync`"
            )
        sums = noise_sums(self._square, items, factor)
        self._sums = sums if self._sums is None else self._sums + sums
        self._square, self._seen = None, [False] * len(self._seen)

    @torch.no_grad()
    def window(self) -> None:
        """Read `.grad` and close the window: before anything changes it (unscaling, `Tally.finish`, clipping, step).

        On several ranks each must call it. A window with a single micro-batch, or with inf or nan in its gradient, is
        left out of the estimate.

        Raises:
            RuntimeError: `micro` was not called since the last window.
        """
        squares = [_squared(p.grad).to(self._rows.device) for p in self._parameters if p.grad is not None]
        if not squares or (self._sums is None and self._world() == 1):
            raise RuntimeError(
                "`window` found no gradient: call `micro` after each `backward`, `window` before the step"
            )
        sums = self._sums or NoiseSums(*self._rows.new_zeros(4).unbind())  # a rank may have had no micro-batch
        if self._reduced != "none":
            sums = sums.all_reduce(self._group)
        ranks = self._world() if self._reduced == "mean" else 1
        self._rows[self._count % self._last] = torch.stack(
            noise_and_signal(sums, torch.stack(squares).sum() * ranks**2)
        )
        self._count += 1
        self._sums = None

    def estimate(self, confidence: float = 0.95) -> NoiseEstimate:
        """Noise scale over the last windows; reads from the device, so call it where you log.

        Args:
            confidence: Probability that the interval covers the ratio of the two means.
        """
        rows = [(noise, signal) for noise, signal in self._chronological().tolist() if _finite(noise, signal)]
        if len(rows) < FEWEST:
            reason = f"at least {FEWEST} are needed; {NONE_USABLE}"
            return NoiseEstimate(torch.nan, 0.0, torch.inf, len(rows), reason)
        noises, signals = zip(*rows, strict=True)
        ratio = ratio_of_means(noises, signals, confidence)
        return NoiseEstimate(ratio.value, ratio.low, ratio.high, len(rows), _reason(ratio, noises))

    def state_dict(self) -> dict[str, Any]:
        """The windows that an estimate looks back on, to be saved between two steps."""
        return {"windows": self._chronological()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; a shorter `last` keeps the newest windows."""
        rows = state["windows"][-self._last :]
        self._rows.fill_(torch.nan)
        self._rows[: len(rows)] = rows.to(self._rows)
        self._count = len(rows)
        self._sums = self._square = None

    def close(self) -> None:
        """Take the hooks off; the estimate stays."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _note(self, index: int, gradient: Tensor) -> None:
        """Hook: one parameter's gradient of this backward, before it is added to `.grad`."""
        square = _squared(gradient).to(self._rows.device)
        if self._seen[index]:  # norms of two parts of one gradient do not add up
            square = torch.full_like(square, torch.nan)
            warn(
                "a parameter got two gradients before `NoiseScale.micro`: call it after each backward; window left out"
            )
        self._seen[index] = True
        self._square = square if self._square is None else self._square + square

    def _world(self) -> int:
        return dist.get_world_size(self._group) if dist.is_available() and dist.is_initialized() else 1

    def _chronological(self) -> Float64[Tensor, "windows 2"]:
        if self._count <= self._last:
            return self._rows[: self._count].cpu()
        return self._rows.roll(-(self._count % self._last), 0).cpu()


def _squared(gradient: Tensor) -> Float64[Tensor, ""]:
    """Squared norm; summed in float32 at least, which is 30 times as fast as in float64 on a CPU."""
    if gradient.layout != torch.strided:
        return squared_norm([gradient])
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=wide).double().square()


def _check(parameters: list[Tensor]) -> None:
    if not parameters:
        raise ValueError("`parameters` must hold at least one that requires a gradient; found none")
    if any(is_distributed(p) for p in parameters):
        msg = "`parameters` are sharded (FSDP, tensor parallel): their gradients never pass the hooks; use DDP's"
        raise ValueError(msg)


def _reason(ratio: Ratio, noises: tuple[float, ...]) -> str:
    """Why there is no number; empty if there is one."""
    if sum(noises) < 0:  # impossible, whatever the data: the parts of a sum are at least as long as it is
        return (
            "`.grad` is not the sum of what `micro` was told of; check `factor`, and call `window` before any scaling"
        )
    return "" if ratio.resolved else "|G|² not distinguishable from 0"


def _finite(*values: float) -> bool:
    return all(abs(value) < torch.inf for value in values)
