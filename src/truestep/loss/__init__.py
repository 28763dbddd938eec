"""Losses -> one scalar whose scale you know."""

from truestep.loss._tally import Tally

__all__ = ["Tally"]
