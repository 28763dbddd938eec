"""What truestep adds to an import of torch, and to the memory of a training: fresh processes, arms in turn.

    python -m benchmarks.bench_import_memory

Writes benchmarks/results/import_memory.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results" / "import_memory.json"
IMPORT = """
import time, torch
start = time.perf_counter()
import truestep
print(1e3 * (time.perf_counter() - start))
"""
MEMORY = """
import resource, sys, torch, truestep
from benchmarks.models import gpt, job as one_job
torch.set_num_threads(1)
job = gpt(256)
if sys.argv[1] == "nesterov":
    optimizer = torch.optim.SGD(job.model.parameters(), 0.01, 0.9, nesterov=True, foreach=True)
    job = one_job(job.model, optimizer, torch.randint(512, (4, 64)), torch.randint(512, (4, 64)))
watched = sys.argv[2] == "on"
watch = truestep.watch(job.model, job.optimizer, every=1, console=None) if watched else None
for _ in range(4):
    job.step()
weights = sum(p.numel() * p.element_size() for p in job.model.parameters())
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / weights)
"""


def run(code: str, *arguments: str) -> float:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    imports = [run(IMPORT) for _ in range(15)]
    found: dict[str, object] = {"import truestep after torch, ms (median of 15)": round(median(imports), 1)}
    for rule in ("adamw", "nesterov"):
        pairs = [(run(MEMORY, rule, "on"), run(MEMORY, rule, "off")) for _ in range(3)]
        copies = median(on - off for on, off in pairs)
        found[f"peak memory watching {rule} adds, in copies of the parameters (median of 3)"] = round(copies, 2)
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
