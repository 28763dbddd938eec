"""Many replicas of one training at a time: seeds and multipliers of the lr as one batch, where the rule allows it."""

from truestep.compare.training._curves import Curves
from truestep.compare.training._replica import Control, Grafted, Matched, Replica
from truestep.compare.training._stackable import STACKABLE
from truestep.compare.training._train import train, train_trial

__all__ = ["STACKABLE", "Control", "Curves", "Grafted", "Matched", "Replica", "train", "train_trial"]
