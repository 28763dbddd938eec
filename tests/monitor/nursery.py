"""A process that forks writers to be killed: torch is imported once, not once a kill.

Each line on stdin, a JSON `{"run_dir", "run_id", "next_step", "mark"}`, forks a writer that prints its process id,
then after every `flush` the first step that is not yet committed, until somebody kills it. A `{"run_dir"}` alone forks
a watched run that goes on from its own checkpoint and prints the step of every one that it has saved.
"""

import json
import os
import sys
from pathlib import Path

import torch
from tests.monitor.loops import Loop
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


def train(run_dir: str) -> None:
    path, loop, start = Path(run_dir, "checkpoint.pt"), Loop(), 0
    run = loop.watch(Path(run_dir))
    if path.exists():
        state = torch.load(path, weights_only=True)
        loop.model.load_state_dict(state["model"])
        loop.optimizer.load_state_dict(state["optimizer"])
        run.load_state_dict(state["watch"])
        (start,) = state["watch"]["next_step"].values()
    while True:
        loop.train(run, start, start + 7)
        start += 7
        states = {"model": loop.model.state_dict(), "optimizer": loop.optimizer.state_dict(), "watch": run.state_dict()}
        torch.save(states, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        sys.stdout.write(f"{start}\n")
        sys.stdout.flush()


def warm() -> None:
    """Have all that a first step imports imported here; a backward pass would start threads, which no fork survives."""
    loop = Loop()
    for p in loop.model.parameters():
        p.grad = torch.zeros_like(p)
    with loop.watch():
        loop.optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    warm()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            try:
                (record if "run_id" in order else train)(**order)
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
