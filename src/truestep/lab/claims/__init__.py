"""The claims, one a file; `CLAIMS` lists them all."""

from typing import Final

from truestep.lab._claim import Claim
from truestep.lab.claims import (
    bad_samples,
    diffusion_noise_levels,
    growing_norm,
    halved_lr,
    inverse_sqrt_decay,
    linear_lr_adam,
    linear_lr_sgd,
    loss_reduction_example,
    loss_scales_gradient,
    mean_reporting,
    orthogonal_gradient,
    per_sample_unit_loss,
    sum_is_batch_agnostic,
    unit_loss_accumulation,
    unit_loss_norm,
    unit_loss_reduction,
    unit_loss_schedule,
)

CLAIMS: Final[tuple[Claim, ...]] = (
    orthogonal_gradient.CLAIM,
    growing_norm.CLAIM,
    inverse_sqrt_decay.CLAIM,
    loss_scales_gradient.CLAIM,
    unit_loss_reduction.CLAIM,
    unit_loss_norm.CLAIM,
    unit_loss_accumulation.CLAIM,
    per_sample_unit_loss.CLAIM,
    bad_samples.CLAIM,
    unit_loss_schedule.CLAIM,
    diffusion_noise_levels.CLAIM,
    loss_reduction_example.CLAIM,
    mean_reporting.CLAIM,
    sum_is_batch_agnostic.CLAIM,
    halved_lr.CLAIM,
    linear_lr_sgd.CLAIM,
    linear_lr_adam.CLAIM,
)
