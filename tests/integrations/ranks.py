"""Two gloo processes that train with the real Trainer and the real Accelerator, and compare with the union batch.

`python -m tests.integrations.ranks FOLDER` writes `FOLDER/<rank>.pt`: relative errors by case.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tests.gloo import fork
from tests.integrations import trainers
from tests.integrations.batches import cross_entropy, equal, flat_gradient, linear, ragged, union_gradient
from tests.integrations.modules import Classifier, TallyClassifier, fit

from truestep.integrations.accelerate import backward, finish
from truestep.integrations.lightning import AccumulationMonitor, ShortWindow, TallyCallback
from truestep.integrations.transformers import Loss, check
from truestep.loss import Tally

WORLD = 2
CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "none, classes": {"classes": True},
    "argument": {"loss": Loss()},
    "attached": {"attach": "token"},
    "attached, counts not gathered": {"attach": "token", "average_tokens_across_devices": False},
    "attached, rows": {"attach": "item"},
}


def with_trainer(
    folder: Path, attach: Any = None, loss: Any = None, *, classes: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Error of the first step's gradient of a real `train()`, and what the check says of it."""
    make, draw = (trainers.classifier, trainers.classes) if classes else (trainers.masked, trainers.sentences)
    model, rows = make(**trainers.NO_DROPOUT), draw(2 * trainers.WINDOW * WORLD)
    expected = trainers.union(model, rows, shift=False, per=attach or "token")
    arguments |= {"ddp_backend": "gloo", "learning_rate": 0.0, "train_sampling_strategy": "sequential"}
    own = trainers.trainer(model, rows, folder, loss, **arguments)
    if attach:
        Loss(attach).attach(own)
    said = check(own, per=attach or "token")
    (gradient,) = trainers.trained(own)
    return {
        "train": trainers.relative_error(gradient, expected),
        "check": said.relative_error,
        "ratio": said.ratio,
        "cause": said.cause,
    }


def with_accelerator(rank: int) -> dict[str, float]:
    """Errors of a full and a short window of ragged micro-batches, through `accumulate` and DDP."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    batches = ragged(2 * 6, seed=1)
    model = accelerator.prepare_model(linear())
    tally, errors = Tally(per="token"), dict[str, float]()
    windows = {"full": batches[:8], "short": batches[8:]}
    for name, window in windows.items():
        mine = window[rank::WORLD]
        for i, batch in enumerate(mine):
            with accelerator.accumulate(model):
                accelerator.sync_gradients = i == len(mine) - 1
                losses, kept = cross_entropy(model, batch)
                backward(accelerator, tally, losses, mask=kept)
                finish(accelerator, tally, model.parameters())
        expected = union_gradient(model.module, window)
        errors[name] = trainers.relative_error(flat_gradient(model), expected)
        model.zero_grad()
    return errors


def with_lightning(rank: int, case: str) -> float:
    """Largest error of a window of eight micro-batches and one of four, under DDP."""
    batches = (equal if case == "short window" else ragged)(12, seed=2)
    tally = Tally(per="token")
    module = Classifier() if case == "short window" else TallyClassifier(tally)
    callback = ShortWindow() if case == "short window" else TallyCallback(tally)
    ddp = {"devices": WORLD, "strategy": "ddp", "use_distributed_sampler": False}
    found = fit(module, batches[rank::WORLD], callbacks=[callback], accumulate_grad_batches=4, **ddp)
    expected = [union_gradient(linear(), part) for part in (batches[:8], batches[8:])]
    return max(trainers.relative_error(g, e) for g, e in zip(found, expected, strict=True))


def with_monitor(rank: int) -> list[dict[str, Any]]:
    """What the monitor says of a window of two micro-batches a rank, and of one."""
    monitor = AccumulationMonitor(lambda batch: (batch[1] != -100).sum())
    ddp = {"devices": WORLD, "strategy": "ddp", "use_distributed_sampler": False}
    fit(Classifier(), ragged(6)[rank::WORLD], callbacks=[monitor], accumulate_grad_batches=2, **ddp)
    return [{"factor": window.factor, "ratios": window.weight_ratios.tolist()} for window in monitor.windows]


def see(rank: int, folder: Path) -> dict[str, Any]:
    """One rank's life."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    found = {f"trainer, {name}": with_trainer(folder, **case) for name, case in CASES.items()}
    found["accelerator"] = with_accelerator(rank)
    found |= {f"lightning, {case}": with_lightning(rank, case) for case in ("tally", "short window")}
    return found | {"monitor": with_monitor(rank)}


if __name__ == "__main__":
    gc.freeze()  # what is imported stays shared between the ranks
    sys.exit(fork(see, WORLD, Path(sys.argv[1]), connect=False))
