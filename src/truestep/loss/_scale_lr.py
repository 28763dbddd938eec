"""What a learning rate becomes at another batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

LrRule = Literal["linear", "sqrt"]
Number = int | float


def scale_lr(lr: Number, batch_size: Number, base_batch_size: Number, rule: LrRule = "linear") -> float:
    r"""Learning rate at `batch_size`, from one chosen at `base_batch_size`, for a loss that is a **mean** over items.

    With :math:`k` = `batch_size` / `base_batch_size`: "linear" gives :math:`k\,\eta`, "sqrt" :math:`\sqrt k\,\eta`.
    A batch is all the items of one optimizer step: micro-batch × accumulation × ranks. A **summed** loss carries
    :math:`k` already, so under "linear" its lr stays as it is.

    "linear" is for SGD, with or without momentum. It is exact for gradients that do not change within :math:`k`
    steps, a limit law for small lr and batches well below the noise scale, and wrong above: on digits (MLP, lr .02 at
    batch 8) the loss curve held up to batch 128 and broke at 704. It carries a small lr over, not the *best* one:
    tuned for each batch size, SGD's lr grew as the batch to the power .15, Adam's .37 (claims linear_lr_sgd,
    linear_lr_adam). "sqrt" keeps the covariance that gradient noise gives to one step, so that of an epoch shrinks;
    it is the heuristic for sign-like rules, and part of `scale_adam`. For Adam, "linear" over-steps and "sqrt"
    under-steps on digits: the two are a bracket.

    Args:
        lr: Learning rate at the base batch size.
        batch_size: Items per optimizer step, new.
        base_batch_size: Items per optimizer step that `lr` was chosen at.
        rule: "linear" or "sqrt".

    Raises:
        ValueError: A batch size or lr that is not positive and finite, an unknown rule.

    Example:
        A weight gets gradient 0.5 from each misclassified item, 8 of 64 and 16 of 128. Summed with lr 0.01, two steps
        on 64 items and one on 128 move it alike; averaged with lr 0.01·64 they do if the lr is scaled:

        >>> summed = -0.01 * (8 * 0.5) - 0.01 * (8 * 0.5), -0.01 * (16 * 0.5)
        >>> lr = 0.01 * 64
        >>> mean = -lr * (8 * 0.5 / 64) - lr * (8 * 0.5 / 64), -scale_lr(lr, 128, 64) * (16 * 0.5 / 128)
        >>> [round(change, 12) for change in summed + mean]
        [-0.08, -0.08, -0.08, -0.08]

        With the lr left at 0.01·64, the step on 128 items gives half of that:

        >>> -lr * (16 * 0.5 / 128)
        -0.04

    References:
        Wood, "The Perfect Solution to Loss Reduction in Deep Learning!", whose example this is (it prints -0.04 for
        the two steps together, which is each of them). Linear: Goyal et al., 2017, section 2.1. Square root:
        Krizhevsky, 2014, section 5; Hoffer et al., 2017, section 4.
    """
    k = batch_ratio(batch_size, base_batch_size)
    check_positive("lr", lr)
    if rule not in get_args(LrRule):
        msg = f"`rule` must be one of {', '.join(get_args(LrRule))}; found {rule!r}; Adam's rule is `scale_adam`"
        raise ValueError(msg)
    return lr * (k if rule == "linear" else math.sqrt(k))


@dataclass(frozen=True, slots=True)
class AdamScale:
    """Adam's settings at another batch size, as its constructor takes them."""

    lr: float
    betas: tuple[float, float]
    eps: float


def scale_adam(
    lr: Number, betas: tuple[Number, Number], eps: Number, batch_size: Number, base_batch_size: Number
) -> AdamScale:
    r"""Adam's square-root rule with everything that belongs to it, for a loss that is a **mean** over items.

    .. math:: \eta' = \sqrt k\,\eta, \quad 1 - \beta' = k\,(1 - \beta), \quad \epsilon' = \epsilon / \sqrt k

    The moments then average over as many items as before (a decay of 0 stays 0: RMSprop), and :math:`\epsilon` stays
    in proportion to the noise of a gradient. A limit law: it assumes that noise dominates the gradient (batches well
    below the noise scale) and that steps are small. On digits (MLP, lr 3e-4 at batch 8) it under-steps: the training
    loss after 5 epochs is exp(.12) times that of the base run at batch 16 and exp(.46) at 64, where "linear" gives
    exp(-.25) and exp(-.63). With the square root alone it is exp(.12) and exp(.53): the decays help a little.

    Args:
        lr: Learning rate at the base batch size.
        betas: Decays of the first and second moment.
        eps: The guard of the denominator.
        batch_size: Items per optimizer step, new.
        base_batch_size: Items per optimizer step that the settings were chosen at.

    Raises:
        ValueError: Settings out of range, or :math:`k (1 - \beta) \ge 1`: the moment would have to forget within less
            than a step (at :math:`\beta_1 = 0.9` from :math:`k = 10` on).

    Example:
        >>> scaled = scale_adam(3e-4, (0.9, 0.999), 1e-8, batch_size=128, base_batch_size=32)
        >>> scaled.lr, [round(beta, 6) for beta in scaled.betas], scaled.eps
        (0.0006, [0.6, 0.996], 5e-09)

    References:
        Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022, section 5.
    """
    k = batch_ratio(batch_size, base_batch_size)
    check_positive("lr", lr)
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"`eps` must be 0 or more, found {eps}")
    beta1, beta2 = (_scaled_decay(f"betas[{i}]", beta, k) for i, beta in enumerate(betas))
    return AdamScale(lr * math.sqrt(k), (beta1, beta2), eps / math.sqrt(k))


def _scaled_decay(name: str, beta: Number, k: float) -> float:
    if not 0 <= beta < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, found {beta}")
    if beta == 0:
        return 0.0
    if k * (1 - beta) >= 1 - 1e-9:  # 10 (1 - 0.9) is 1 but for rounding
        msg = (
            f"`{name}` = {beta:g} averages over {1 / (1 - beta):.3g} steps, and k = {k:g} times the batch leaves less "
            f"than one of them: 1 - k(1 - {beta:g}) is not positive. Grow the batch less than {1 / (1 - beta):.3g} "
            "times, start from a larger beta, or take the sqrt rule, which keeps the betas (a heuristic)"
        )
        raise ValueError(msg)
    return 1 - k * (1 - beta)


def batch_ratio(batch_size: Number, base_batch_size: Number) -> float:
    """How many times the base batch the batch is.

    Raises:
        ValueError: One of them is not positive and finite.
    """
    check_positive("batch_size", batch_size)
    check_positive("base_batch_size", base_batch_size)
    return batch_size / base_batch_size


def check_positive(name: str, value: Number) -> None:
    """Raise a ValueError unless `value` is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` must be positive and finite, found {value}")
