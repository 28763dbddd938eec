"""A process that forks writers to be killed: torch is imported once, not once a kill.

Each line on stdin, a JSON `{"run_dir", "run_id", "next_step", "mark"}`, forks a writer that prints its process id,
then after every `flush` the first step that is not yet committed, until somebody kills it.
"""

import json
import os
import sys
from pathlib import Path

from tests.monitor.written import write

from truestep.monitor.sinks import Store


def record(run_dir: str, run_id: str, next_step: int, mark: float) -> None:
    store = Store(Path(run_dir), meta={"id": run_id}, commit_every=0.01)
    if next_step:
        store.resume(run_id, {"SGD": next_step})
    while True:
        write(store, range(next_step, next_step + 5), mark=mark)
        next_step += 5
        write_more = next_step % 3  # some batches are committed by `flush`, some by the clock
        if write_more == 0:
            store.flush()
            assert store.failure is None, store.failure
            sys.stdout.write(f"{next_step}\n")
            sys.stdout.flush()


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            try:
                record(**json.loads(line))
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
