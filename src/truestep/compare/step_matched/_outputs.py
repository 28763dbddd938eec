"""Lengths of steps in what the network gives for a fixed batch: the norm "function"."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from truestep.compare.step_matched._root import nearest_factor
from truestep.compare.step_matched._write import write_
from truestep.core._kept import Buffers
from truestep.core._preserved import preserved

_FORWARDS = 8  # of the network, in all, for one step
_TOLERANCE = 1e-7  # relative error of a length that no further forward is spent on
_REACHED = 1e-5  # relative error up to which a length is the wanted one
_ROUNDINGS = 4  # of the outputs: an error that a further forward may not mend
_ROUNDED = 1e-2  # relative error that is reported, whatever the outputs' digits
_ENOUGH = 1e-3  # and one that forwards are spent on
_CAREFUL = 0.1  # of the weights' norm: the longest step that is tried before anything is known

Pairs = Sequence[tuple[Tensor, Tensor]]  # weights before the step, and the parameters to be written


class Outputs:
    r"""Finds the factor :math:`c` of a step with :math:`\text{RMS}(f(w + c u) - f(w)) = r`; waits for the device.

    Args:
        probe: Gives :math:`f`, a tensor or a pytree of tensors; the root mean square is over all entries of all of
            them. Each call finds the run's random numbers as they are, and leaves them so.

    Example:
        >>> weight, start = torch.zeros(2), torch.zeros(2)
        >>> outputs = Outputs(lambda: weight.sinh())
        >>> _ = weight.copy_(torch.tensor([8.0, 8.0]))  # an optimizer's step
        >>> with outputs.probed([(start, weight)]):
        ...     factor, length, matched = outputs.match(0.5, 8.0 * 2**0.5, 0.0)
        >>> round(factor, 5), round(length, 5), matched  # asinh(0.5) / 8
        (0.06015, 0.5, True)
    """

    def __init__(self, probe: Callable[[], Any]) -> None:
        self._probe, self._buffers = probe, Buffers()
        self._pairs: Pairs = ()
        self._after: list[Tensor | None] = []
        self._start: list[Tensor] = []
        self._forwards, self._looked = 0, False

    @contextmanager
    def probed(self, pairs: Pairs) -> Generator[None, None, None]:
        """Within, the weights stand where they were before the step, then wherever is looked; then behind it again."""
        self._pairs = pairs
        self._after = self._buffers.fill([str(number) for number in range(len(pairs))], [p.detach() for _, p in pairs])
        try:
            for w, p in pairs:
                p.detach().copy_(w)
            with nullcontext() if self._looked else no_running_statistics():
                self._start = self._outputs()
            self._forwards, self._looked = 1, True
            yield
        finally:
            self._put_back()

    def distance(self) -> float:
        """Root mean square of what the outputs have changed by, the weights as they stand."""
        self._forwards += 1
        changes = [x.double() - y.double() for x, y in zip(self._outputs(), self._start, strict=True)]
        return _rms(changes)

    def match(self, wanted: float, step: float, weight: float) -> tuple[float, float, bool]:
        """Factor, the length that the step then has, and whether that is the wanted one.

        Args:
            wanted: The length, in the outputs' unit.
            step: The step's l2 norm.
            weight: The weights' l2 norm.

        Returns:
            A factor of nan where the step is better left as it was taken: it changes no output, or is not finite.
        """
        if not step:
            return torch.nan, 0.0, False
        if wanted == 0:
            return 0.0, 0.0, True
        first = min(1.0, _CAREFUL * weight / step) or 1.0
        possible = 0 < wanted < torch.inf and step < torch.inf
        if not possible:
            return torch.nan, self._length(1.0), False
        noise = max(torch.finfo(x.dtype).eps for x in self._start) * _rms(self._start) / wanted
        left = _FORWARDS - self._forwards
        tolerance = max(_TOLERANCE, min(noise, _ENOUGH))
        c, length = nearest_factor(self._length, wanted, first, evaluations=left, tolerance=tolerance)
        return c, length, abs(length / wanted - 1) <= max(_REACHED, min(_ROUNDINGS * noise, _ROUNDED))

    def _put_back(self) -> None:
        """The weights as the optimizer's own step left them."""
        for (_, p), x in zip(self._pairs, self._after, strict=True):
            if x is not None:
                p.detach().copy_(x)

    def _length(self, factor: float) -> float:
        """Length of so many times the step; the weights stay there."""
        self._put_back()
        for w, p in self._pairs:
            write_(p, w, torch.full((1,), factor, dtype=torch.float64, device=p.device))
        return self.distance()

    def _outputs(self) -> list[Tensor]:
        with preserved(nn.Module()):  # of no model: of the run, its random numbers
            found = tree_leaves(self._probe())
        tensors = [x.detach().clone() for x in found if isinstance(x, Tensor) and x.is_floating_point()]
        if not sum(x.numel() for x in tensors):
            msg = f"`probe` must give a tensor of floating-point numbers, or a pytree of them, found {found!r:.80}"
            raise ValueError(msg)
        return tensors


@contextmanager
def no_running_statistics() -> Generator[None, None, None]:
    """Within, a module that would move its running mean and variance is refused: looking must leave no trace."""

    def check(module: nn.Module, _inputs: Any) -> None:
        if module.training and getattr(module, "running_mean", None) is not None:
            msg = (
                f"`probe` must leave the run as it is, found a {type(module).__name__} in training mode, which counts "
                "each look in its running mean; call `model.eval()` in `probe`, and `model.train()` behind"
            )
            raise ValueError(msg)

    handle = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _rms(tensors: Sequence[Tensor]) -> float:
    squares = sum(float(x.double().square().sum()) for x in tensors)
    return (squares / sum(x.numel() for x in tensors)) ** 0.5
