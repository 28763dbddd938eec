"""The six products of a Gram over 9.7 M float32 parameters in 148 tensors: how many elements at a time, one thread.

python -m benchmarks.bench_gram
"""

from __future__ import annotations

import time
from statistics import median

import torch

from benchmarks.models import gpt
from truestep.core import _products
from truestep.core._block import block_products
from truestep.core._products import Scratch


def main() -> None:
    torch.set_num_threads(1)
    before = [p.detach() for p in gpt(256).model.parameters()]
    grads = [torch.randn_like(w) for w in before]
    now = [w + 1e-3 * torch.randn_like(w) for w in before]
    print("elements at a time   ms (median of 9)")
    for exponent in range(12, 21):
        _products._CPU_CHUNK = 1 << exponent
        scratch, times = Scratch(torch.device("cpu"), 1 << 20), []
        for _ in range(10):
            start = time.perf_counter()
            for w, g, after in zip(before, grads, now, strict=True):
                block_products(w, g, after, scratch, after=True)
            times.append(1e3 * (time.perf_counter() - start))
        print(f"2^{exponent:<18} {median(times[1:]):.1f}")


if __name__ == "__main__":
    main()
