"""Watch a run that already exists, keep its record, and report the step it really takes."""

from truestep.monitor._balance import Balance
from truestep.monitor._run import BlockInfo, Event, OptimizerInfo, Run, load_run
from truestep.monitor._watch import Watch, watch
from truestep.monitor.report import write_report

__all__ = ["Balance", "BlockInfo", "Event", "OptimizerInfo", "Run", "Watch", "load_run", "watch", "write_report"]
