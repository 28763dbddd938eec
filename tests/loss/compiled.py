"""The tally under torch.compile: `python -m tests.loss.compiled` prints how often it was compiled, and its errors.

`fullgraph=True` makes a graph break an error. The counting backend runs the graphs as they are: no compiler is needed.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
import torch._dynamo.testing
from tests.loss.windows import batch, distance, gradient_of, net, wanted

from truestep.loss import Tally

LONG = 22  # windows: past the reference's


def follow(per: Any, scale: Any) -> dict[str, Any]:
    """Number of compilations of `total` and `finish` after each window, and the gradients' errors."""
    torch._dynamo.reset()
    model, tally = net(), Tally(per, scale)
    counters = [torch._dynamo.testing.CompileCounter() for _ in range(2)]
    total = torch.compile(tally.total, backend=counters[0], fullgraph=True)
    finish = torch.compile(tally.finish, backend=counters[1], fullgraph=True)
    graphs, errors = [], []
    for seed in range(LONG if (per, scale) == ("token", "ref") else 4):
        whole = batch(8, seed=seed)
        model.zero_grad()
        for part in whole.split([4, 4]):
            total(part.losses(model), part.mask, part.weight).backward()
        finish(list(model.parameters()))
        graphs.append([counter.frame_count for counter in counters])
        found, right = gradient_of(model), wanted(per, scale, model, whole)
        if scale == "ref":  # its later windows have another size
            found, right = found / found.norm(), right / right.norm()
        errors.append(distance(found, right))
    return {"per": per, "scale": scale, "graphs": graphs, "errors": errors}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")  # dynamo looks at the losses'
    every = [("token", scale) for scale in ("mean", "ref", "unit", "sqrt", "ngd")]
    print(json.dumps([follow(per, scale) for per, scale in [*every, ("item", "mean"), ("weight", "unit")]]))
