"""The same training at another batch size: what its settings become, and how far apart the two really step."""

from truestep.recipe._laws import Note
from truestep.recipe._probe import Probe, probe
from truestep.recipe._recipe import Recipe
from truestep.recipe._transfer import Transfer, transfer

__all__ = ["Note", "Probe", "Recipe", "Transfer", "probe", "transfer"]
