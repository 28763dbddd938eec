"""Where a run's records go: one destination a file."""

from truestep.monitor.sinks._console import Console
from truestep.monitor.sinks._sqlite import Store

__all__ = ["Console", "Store"]
