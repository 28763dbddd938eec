"""The lengths that another run's steps had, from its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from jaxtyping import Float64
from torch import Tensor

from truestep.compare.step_matched._blocks import Blocks
from truestep.compare.step_matched._extent import Extent, real
from truestep.compare.step_matched._factor import Norm, step_length
from truestep.core import Step

_NOT_RECORDED = {"linf": "the largest entry of a step", "function": "what the step did to the outputs"}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a run's steps were, block by block; made by `replay`.

    Args:
        names: Blocks of the record, "fc.weight" or units "fc.weight[3]".
        sums: Of each step that was not skipped and each block: squared norm of the weight, its product with the
            displacement, and that one's squared norm.
        params: The weights that follow, by the names they have in the record; None: by the optimizer's own names.
    """

    names: tuple[str, ...]
    sums: Float64[Tensor, "steps blocks 3"]
    params: Mapping[str, Tensor] | None = None

    @staticmethod
    def check_norm(norm: str) -> None:
        """Raise a ValueError where the record does not hold what this norm measures."""
        if norm in _NOT_RECORDED:
            msg = (
                f"`norm` must be 'l2', 'rms', 'relative' or 'angular' for a `replay`, found {norm!r}: a record has "
                f"not {_NOT_RECORDED[norm]}; pass the other optimizer itself as `length`"
            )
            raise ValueError(msg)

    def lengths(
        self, blocks: Blocks, given: Sequence[str | None], norm: Norm, floor: float
    ) -> list[Float64[Tensor, " blocks"]]:
        """One length a step and block, as `length` takes them.

        Args:
            blocks: Those of the optimizer that follows.
            given: The name that its groups have for each of its weights, None where they have none.
            norm: What is called a length; sizes of blocks are those of the weights that follow.
            floor: Of the relative norm.

        Raises:
            ValueError: If a weight has no name, or the record does not hold it.
        """
        at = {name: column for column, name in enumerate(self.names)}
        rows = [_columns(at, name, n) for name, n in zip(self._named(given, blocks), blocks.rows, strict=True)]
        sizes = torch.tensor(blocks.sizes)
        block_of = torch.arange(len(sizes)).repeat_interleave(sizes).split(list(blocks.rows))
        parts = [(c, block) for row, of in zip(rows, block_of, strict=True) for c, block in _members(row, of)]
        columns, owners = (torch.tensor(x) for x in zip(*parts, strict=True))
        sums = self.sums.new_zeros(len(self.sums), len(sizes), 3).index_add_(1, owners, self.sums[:, columns])
        entries = self.sums.new_zeros(len(sizes))
        for x, of in zip(blocks.params, block_of, strict=True):
            entries.index_add_(0, of, entries.new_full((len(of),), real(x).numel() / len(of)))
        ww, wu, uu = sums.unbind(2)
        return list(step_length(Extent(ww, wu, uu, uu, entries.expand_as(uu)), norm, floor))

    def _named(self, given: Sequence[str | None], blocks: Blocks) -> list[str]:
        """The name in the record of each weight that follows."""
        names = list(given)
        if self.params is not None:
            name_of = {id(x): name for name, x in reversed(list(self.params.items()))}
            names = [name_of.get(id(x)) for x in blocks.params]
        if None in names:
            msg = (
                "`length` must find each weight in the record by its name, found one without: give "
                "`replay(..., params=dict(model.named_parameters()))`, or build the optimizer of named parameters"
            )
            raise ValueError(msg)
        return [name for name in names if name is not None]


def replay(
    steps: Iterable[Step], *, optimizer: str | None = None, params: Mapping[str, Tensor] | None = None
) -> Replay:
    """The lengths of a run's recorded steps, for those of another optimizer to be as long.

    The lengths are of the norm and scope that `StepMatched` is given; "linf" and "function" are not in a record. The
    first recorded step gives the first length, and a skipped one none.

    Args:
        steps: Every step of the run in order, as `load_run(run_dir).steps`, `Watch.steps` or a `Recorder` gives them.
        optimizer: Whose steps, in a run of several.
        params: The weights that follow by their names in the record; None where their optimizer was built of named
            parameters.

    Raises:
        ValueError: If there are no steps, one is missing between two others, or they are of several optimizers or
            change their blocks.

    Example:
        >>> import torch
        >>> from truestep.compare import StepMatched
        >>> from truestep.core import Recorder
        >>> leader, follower = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
        >>> first, steps = torch.optim.SGD([leader], lr=0.5), []
        >>> recorder = Recorder({"w": leader}, first, steps.append)
        >>> leader.grad = torch.tensor([3.0, 4.0])
        >>> first.step()
        >>> second = torch.optim.SGD([follower], lr=7.0)
        >>> matched = StepMatched(second, replay(steps, params={"w": follower}))
        >>> follower.grad = torch.tensor([0.0, -1.0])
        >>> second.step()
        >>> follower.data
        tensor([0.0000, 2.5000])
    """
    rows: list[Tensor] = []
    last: Step | None = None
    for step in steps:
        if optimizer is not None and step.optimizer != optimizer:
            continue
        if last is not None:
            _check_next(last, step)
        last = step
        if not step.skipped:
            rows.append(torch.stack([step.took.ww, step.took.wd, step.took.dd], 1))
    if last is None or not rows:
        of = "" if optimizer is None else f" of the optimizer {optimizer!r}"
        msg = f"`steps` must hold steps{of} that were taken, found none"
        raise ValueError(msg)
    return Replay(last.names, torch.stack(rows), params)


def _check_next(last: Step, step: Step) -> None:
    """Whether `step` is the one behind `last`."""
    if step.optimizer != last.optimizer:
        msg = (
            f"`steps` must be of one optimizer, found {last.optimizer!r} and {step.optimizer!r}; "
            "name the one to follow: `replay(steps, optimizer=...)`"
        )
    elif step.index != last.index + 1:
        msg = (
            f"`steps` must hold every step, found {step.index} behind {last.index}; record the run with "
            "`watch(..., every=1)` and a `max_bytes` that holds it whole"
        )
    elif step.names != last.names:
        msg = f"`steps` must be of the same blocks throughout, found others at step {step.index}; cut the record there"
    else:
        return
    raise ValueError(msg)


def _columns(at: Mapping[str, int], name: str, num_rows: int) -> list[list[int]]:
    """For each row of a weight the columns of the record that make it up."""
    units = [at[unit] for unit in takewhile(at.__contains__, (f"{name}[{number}]" for number in count()))]
    if num_rows == 1 and (name in at or units):
        return [[at[name]] if name in at else units]
    if num_rows > 1 and len(units) == num_rows:
        return [[unit] for unit in units]
    what, advice = f"{name!r}", "pass the `params` by the names of that run"
    if num_rows > 1:
        what, advice = f"{num_rows} units of {name!r}", f"watch that run with `units=[{name!r}]`"
    msg = f"`length` must hold every weight that follows, found no {what} in the record; {advice}"
    raise ValueError(msg)


def _members(row: list[list[int]], blocks: Tensor) -> list[tuple[int, int]]:
    """Columns of one weight's rows, each with the block that it belongs to."""
    return [(column, int(block)) for part, block in zip(row, blocks, strict=True) for column in part]
