"""A real Ray cluster of two nodes on this machine, one of them killed while a sweep runs.

`python -m tests.integrations.ray_cluster FOLDER` writes what it saw to `FOLDER/seen.json`; with `local` behind it, what
a Ray of the executor's own does, which starts and stops for ten seconds.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from tests.integrations.trials import FREE, die, endless, fail, marks, train

from truestep.compare.sweep import Sweep
from truestep.integrations.ray import RayExecutor

TRIALS = 16
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def on_two_nodes(cluster: Any, folder: Path) -> dict[str, Any]:
    """A sweep that connects to the cluster itself, and loses a node at work."""
    node = cluster.add_node(**NODE)
    folder.mkdir()
    killer = Thread(target=kill_at_work, args=(cluster, node, folder), daemon=True)
    killer.start()
    trials = [partial(train, str(folder), seed) for seed in range(TRIALS)]
    with RayExecutor(cluster.address) as executor, Sweep(folder / "store.db", executor) as sweep:
        results = sweep.run(trials)
        attempts = {trial.attempts for trial in sweep.results()}
    with Sweep(workers=0) as serial:
        same = serial.run(trials) == results  # their marks have the node "here"
    nodes = {mark.split()[1] for mark in marks(folder, "*", "start")} - {"here"}
    starts, ends = (len(marks(folder, "*", what)) - TRIALS for what in ("start", "end"))
    seen = {"same": same, "nodes": len(nodes), "starts": starts, "ends": ends, "attempts": [*attempts]}
    return seen | {"killed": not killer.is_alive(), "results": len(results)}


def kill_at_work(cluster: Any, node: Any, folder: Path) -> None:
    """Kill a node with all its processes, while it trains."""
    while not (waiting := {mark for mark in at_work(node, folder) if int(mark.split()[0]) >= FREE}):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    for mark in waiting:
        with suppress(ProcessLookupError):
            os.kill(int(mark.split()[2]), signal.SIGKILL)
    (folder / "go").touch()


def at_work(node: Any, folder: Path) -> set[str]:
    return marks(folder, node.node_id, "start") - marks(folder, node.node_id, "end")


def on_one_node(folder: Path) -> dict[str, Any]:
    """What becomes of single calls, in a Ray that runs already."""
    executor, once = RayExecutor(), RayExecutor(max_retries=0)
    seen: dict[str, Any] = {"map": list(executor.map(pow, range(4), range(4)))}
    seen["failed"] = raised(executor.submit(fail, "no such thing"))
    seen["died"] = raised(once.submit(die))
    seen["not pickled"] = said(TypeError, partial(executor.submit, fail, (line for line in ())))
    running, waiting = (executor.submit(endless, str(folder / name)) for name in ("running", "waiting"))
    while not (folder / "running").exists():
        time.sleep(0.01)
    kept = executor.submit(math.sqrt, 4.0)
    seen["undone"] = len(wait([running, waiting], 0).not_done)
    seen["cancelled"] = [waiting.cancel(), running.cancel(), len(wait([running, waiting], 10).done)]
    seen["kept"] = [kept.result(timeout=60), kept.cancel()]
    last = executor.submit(endless, str(folder / "last"))
    executor.shutdown(cancel_futures=True)
    seen["last"] = last.cancelled()
    seen["closed"] = said(RuntimeError, partial(executor.submit, pow, 1, 1))
    seen["address"] = said(ValueError, partial(RayExecutor, "auto"))
    return seen | {"waiting ran": (folder / "waiting").exists()}


def raised(future: Future[Any]) -> dict[str, Any]:
    error = future.exception(timeout=60)
    return {"type": type(error).__name__, "text": str(error), "cause": str(error.__cause__ if error else "")}


def said(kind: type[Exception], call: Any) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        seen = on_two_nodes(cluster, folder / "trials") | {"left": ray.is_initialized()}
        ray.init(cluster.address, log_to_driver=False)
        seen |= on_one_node(folder)
        seen["there still"] = ray.is_initialized()
    finally:
        ray.shutdown()
        cluster.shutdown()
    (folder / "seen.json").write_text(json.dumps(seen))


def local(folder: Path) -> None:
    import ray

    with RayExecutor("local") as executor:
        seen = [executor.submit(pow, 2, 5).result(timeout=60), ray.is_initialized()]
    (folder / "seen.json").write_text(json.dumps([*seen, ray.is_initialized()]))


if __name__ == "__main__":
    (local if "local" in sys.argv else main)(Path(sys.argv[1]))
