"""Batch centering: batch normalization without the division, and with a statistics path that can be cut."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Final, Literal, Self, get_args

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from truestep.conditioning.centering._batch_mean import batch_mean

Statistics = Literal["full", "direct"]
_LETTERS: Final = {2: "[N, C]", 3: "[N, C, L]", 4: "[N, C, H, W]"}


def batch_center(
    x: Float[Tensor, "samples channels *space"],
    mean: Float[Tensor, " channels"],
    bias: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "samples channels *space"]:
    """Activations less the mean of their channel, plus `bias`; as exact as `mean`, then in the dtype of `x`.

    Example:
        >>> import torch
        >>> batch_center(torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([2.0, 0.5]))
        tensor([[-1.0000, -0.5000],
                [ 1.0000,  0.5000]])
    """
    shape = (-1, *[1] * (x.dim() - 2))
    centred = x - mean.view(shape)
    if bias is not None:  # not in one with the mean, where a large one would swallow it
        centred = centred + bias.view(shape)
    return centred.to(x.dtype)


class AbstractBatchCenter(nn.Module, ABC):
    """What `BatchCenter1d` and `BatchCenter2d` have in common; they differ in the shapes they take."""

    bias: nn.Parameter | None
    running_mean: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        momentum: float | int | None = 0.1,
        *,
        statistics: Statistics = "full",
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_momentum(momentum)
        self.num_features, self.momentum, self.statistics = num_features, momentum, statistics
        self.track_running_stats, self.process_group = track_running_stats, process_group
        empty = torch.empty(num_features, device=device, dtype=dtype)
        self.bias = nn.Parameter(empty.clone()) if bias else None
        self.register_buffer("running_mean", empty if track_running_stats else None)
        count = torch.empty((), dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    @property
    def statistics(self) -> Statistics:
        """Either "full", or "direct", which leaves the mean out of the backward pass."""
        return self._statistics

    @statistics.setter
    def statistics(self, value: Statistics) -> None:
        _check_statistics(value)
        self._statistics: Statistics = value

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Bias, running mean and the count of batches back to 0."""
        for x in (self.bias, self.running_mean, self.num_batches_tracked):
            if x is not None:
                x.zero_()

    @property
    @abstractmethod
    def _dims(self) -> tuple[int, ...]:
        """How many dimensions an input may have."""

    def forward(self, x: Float[Tensor, "samples channels *space"]) -> Float[Tensor, "samples channels *space"]:
        """`x` less its batch mean while training, less the running mean in evaluation, plus the bias."""
        self._check_input(x)
        if self.running_mean is not None and not self.training:
            return batch_center(x, self.running_mean, self.bias)
        mean = batch_mean(x.detach() if self.statistics == "direct" else x, self._group(x))
        self._track(mean)
        return batch_center(x, mean, self.bias)

    def extra_repr(self) -> str:
        """The settings, as they were given."""
        return (
            f"{self.num_features}, momentum={self.momentum}, statistics={self.statistics!r}, "
            f"track_running_stats={self.track_running_stats}, bias={self.bias is not None}"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.process_group)] = self.process_group  # the copy has the same ranks; a group has no copy
        memo[id(self)] = twin = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def _group(self, x: Tensor) -> dist.ProcessGroup | None:
        """The ranks to reduce over, None for this one alone; one value alone would be centred to nothing."""
        group = self.process_group
        if group is not None and dist.get_world_size(group) > 1:
            return group
        if x.numel() < 2 * self.num_features:
            msg = f"`x` must hold 2 values a channel to be centred, found shape {tuple(x.shape)}; use .eval()"
            raise ValueError(msg)
        return None

    @torch.no_grad()
    def _track(self, mean: Tensor) -> None:
        """One step of the running mean, without waiting for the device."""
        running = self.running_mean
        if running is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else (1 / self.num_batches_tracked.to(mean)).to(running)
        running.lerp_(mean.to(running), weight)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() in self._dims and x.shape[1] == self.num_features:
            return
        expected = " or ".join(_LETTERS[dim] for dim in self._dims)
        msg = f"`x` must be {expected} with C = {self.num_features} channels, found shape {tuple(x.shape)}"
        raise ValueError(msg)


class BatchCenter1d(AbstractBatchCenter):
    r"""Subtracts the batch's mean of each channel from [N, C] or [N, C, L] and adds a learned bias; divides by nothing.

    .. math:: y_n = z_n - \mu + \beta, \qquad \mu = \frac{1}{N} \sum_n z_n

    Behind a linear layer :math:`Z = A W^\top` with inputs :math:`A` and :math:`\bar S = \partial L / \partial Y`, the
    gradient of the weights is the one of centred inputs :math:`\tilde A = A - 1 m^\top`, although the inputs are not:

    .. math:: \bar W = \bar S^\top \tilde A = \underbrace{\bar S^\top A}_{\text{direct path}}
        \underbrace{- \bigl(\sum_n \bar s_n\bigr) m^\top}_{\text{statistics path}}

    whatever the reduction of the loss. With `statistics="direct"` the second path is cut: the same output, bit by bit,
    with the gradient of uncentred inputs. That is the knockout that tells what the centering of the gradient does.

    Settings, buffers and their names are those of `torch.nn.BatchNorm1d`; the bias of the layer before has no effect.

    Args:
        num_features: Number C of channels.
        momentum: Weight of the newest batch in the running mean, which evaluation subtracts; None for the mean of all
            batches so far.
        statistics: "full", or "direct" to leave the mean out of the backward pass. May be set later, as an
            attribute, which is checked as well.
        track_running_stats: False keeps no running mean; evaluation then centres by its own batch.
        process_group: Ranks whose batches count as one, as `torch.nn.SyncBatchNorm` has it; there each rank must run
            forward and backward, with any number of samples. Make the group before the layer. None (also where
            SyncBatchNorm takes it for all ranks) centres each rank's batch by itself.
        bias: Whether to learn :math:`\beta`, which starts at 0.
        device: Where parameters and buffers are.
        dtype: Their number format. The mean of half precision is taken in float32.

    Raises:
        ValueError: If a setting is none of these, or the input has another shape, or one value a channel.

    Note:
        Every forward pass in training mode moves the running mean, also a recomputed one, as with BatchNorm.

    Example:
        >>> import torch
        >>> layer = BatchCenter1d(2)
        >>> layer(torch.tensor([[1.0, 0.0], [3.0, 1.0]])).detach()
        tensor([[-1.0000, -0.5000],
                [ 1.0000,  0.5000]])
        >>> layer.running_mean
        tensor([0.2000, 0.0500])

    References:
        Grosse, CSC 2541 (2021), lecture 5, "A wrinkle": the gradient with batch centering. Note: Deviation: there
        :math:`\bar S` could be read as the gradient at the layer's own output; it is the one at the centred output.
        Salimans, Kingma, "Weight normalization" (2016, arXiv 1602.07868), section 4, "mean-only batch normalization".
    """

    @property
    def _dims(self) -> tuple[int, ...]:
        return (2, 3)


class BatchCenter2d(AbstractBatchCenter):
    r"""Subtracts the batch's mean of each channel from [N, C, H, W]: `BatchCenter1d` behind a convolution.

    .. math:: y_{nchw} = z_{nchw} - \mu_c + \beta_c, \qquad \mu_c = \frac{1}{NHW} \sum_{nhw} z_{nchw}

    The identities of `BatchCenter1d` hold with the patches that the kernel sees, of all places, as the rows of A;
    arguments and errors are the same.

    Example:
        >>> import torch
        >>> BatchCenter2d(1)(torch.tensor([[[[1.0, 3.0]]]])).detach()
        tensor([[[[-1.,  1.]]]])

    References:
        As for `BatchCenter1d`.
    """

    @property
    def _dims(self) -> tuple[int, ...]:
        return (4,)


def _check_momentum(momentum: float | int | None) -> None:
    if momentum is not None and not 0 <= momentum <= 1:
        msg = f"`momentum` must lie between 0 and 1, or be None for the mean of all batches, found {momentum}"
        raise ValueError(msg)


def _check_statistics(statistics: str) -> None:
    if statistics not in get_args(Statistics):
        msg = f'`statistics` must be "full", or "direct" to cut the statistics path, found {statistics!r}'
        raise ValueError(msg)
