"""How sure a rank is: probabilities over seeds, and over the draws of the tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from truestep.compare.statistics import resamples


@dataclass(frozen=True, slots=True)
class RankProbabilities:
    """Shares of the resamples.

    Args:
        ranks: In which an optimizer has rank 1, 2, ..., tuned by random draws; those that are equal share the places
            they take.
        better: In which the row's loss is below the column's, each at the best of all its values; equal ones count
            half.
    """

    ranks: Float64[Tensor, "optimizers ranks"]
    better: Float64[Tensor, "optimizers optimizers"]


def rank_probabilities(
    losses: Sequence[Float64[Tensor, "_ seeds"]], *, count: int = 2000, seed: int = 0
) -> RankProbabilities:
    r"""Bootstrap over seeds, the same for all optimizers; `ranks` also over tuning, as many draws as a grid has values.

    The best value is chosen anew in each resample. The bootstrap of few seeds is too sure of itself: deviations from
    the mean are stretched by :math:`\sqrt{n/\chi^2_{n-1}}`, which gives them Student's distribution. Where there is
    one value each, `better` is the one-sided p value of the paired t test.

    Args:
        losses: For each optimizer, log losses by value of its grid and by seed.
        count: Number of resamples.
        seed: Of the draws.

    Example:
        >>> import torch
        >>> losses = torch.tensor([[[0.0, 1.0, 2.0]], [[5.0, 6.1, 7.0]], [[5.0, 6.1, 7.0]]], dtype=torch.float64)
        >>> probabilities = rank_probabilities(list(losses))
        >>> [round(x, 1) for x in probabilities.ranks[1].tolist()]
        [0.0, 0.5, 0.5]
    """
    best, drawn = (_differences(resampled_levels(losses, count, seed, draws=draws)) for draws in (False, True))
    wins = (best < 0).double() + (best == 0).double() / 2
    return RankProbabilities(_shares((drawn > 0).sum(2), (drawn == 0).sum(2)), wins.mean(0))


def resampled_levels(
    losses: Sequence[Float64[Tensor, "_ seeds"]], count: int, seed: int, *, draws: bool
) -> Float64[Tensor, "count optimizers"]:
    """Each optimizer's mean log loss, in each resample: at the best value, or at the best of as many draws.

    Example:
        >>> import torch
        >>> losses = torch.tensor([[3.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
        >>> levels = resampled_levels([losses], 1000, seed=0, draws=True)
        >>> abs((levels == 3).double().mean().item() - 1 / 4) < 0.05  # both draws are the worse value
        True
    """
    n = losses[0].shape[1]
    generator = torch.Generator().manual_seed(seed)
    weights = resamples(n, count, seed=seed)
    chi2 = torch.randn(count, n - 1, generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
    columns = list[Tensor]()
    for each in losses:
        mean = each.mean(1)
        level = mean + (weights @ (each - mean[:, None]).T) * (n / chi2).sqrt()
        if draws:
            level = level.gather(1, torch.randint(len(mean), (count, len(mean)), generator=generator))
        columns.append(level.amin(1))
    return torch.stack(columns, 1)


def _differences(levels: Float64[Tensor, "count optimizers"]) -> Float64[Tensor, "count optimizers optimizers"]:
    return levels[:, :, None] - levels[:, None, :]


def _shares(
    before: Int64[Tensor, "count optimizers"], equal: Int64[Tensor, "count optimizers"]
) -> Float64[Tensor, "optimizers ranks"]:
    """With so many before it, and so many (itself, too) equal to it, an optimizer holds those places in equal parts."""
    place = torch.arange(before.shape[1])
    held = (before[..., None] <= place) & (place < (before + equal)[..., None])
    return (held / equal[..., None]).double().mean(0)
