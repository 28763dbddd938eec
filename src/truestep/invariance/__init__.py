"""Weights whose norm does not matter, and what the learning rate means for them."""

from truestep.invariance._formulas import angular_update, effective_lr, intrinsic_lr, relative_update

__all__ = ["angular_update", "effective_lr", "intrinsic_lr", "relative_update"]
