"""Many trials, each run once: addressed by their content, run on any executor, kept in one file."""

from truestep.compare.sweep._content import content, content_hash
from truestep.compare.sweep._store import StoredTrial
from truestep.compare.sweep._sweep import Sweep, TrialError
from truestep.compare.sweep._worker import Outcome, run_trial

__all__ = ["Outcome", "StoredTrial", "Sweep", "TrialError", "content", "content_hash", "run_trial"]
