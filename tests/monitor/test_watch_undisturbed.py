"""Watching changes nothing, and waits for no device on a step that is not recorded."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.monitor.loops import Loop, assert_bit_equal, everything, hooks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from truestep import Watch, watch
from truestep.lab._demo_runs import BATCH_SIZE, LR, MOMENTUM, SIDE, WEIGHT_DECAY, cnn, shifted
from truestep.lab._digits import digits


def demo_net_after(steps: int, watched: Callable[[nn.Module, torch.optim.Optimizer], Watch] | None) -> dict[str, Any]:
    """Everything there is after training the demo's net on the demo's data."""
    data = digits()  # first: an import may draw random numbers
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    model, generator = cnn(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    run = watched(model, optimizer) if watched else None
    for _ in range(steps):
        picked = torch.randint(len(data.train_y), (BATCH_SIZE,), generator=generator)
        noise = 0.01 * torch.randn(1) + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002
        images = shifted(data.train_x[picked].view(-1, SIDE, SIDE), generator) + noise
        loss = cross_entropy(model(images[:, None]), data.train_y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run:
            run.log(loss=loss, samples=BATCH_SIZE)
    if run:
        assert len(run.steps) > 5
        run.close()
    return everything(model, optimizer)


def test_200_steps_of_the_demo_s_net_are_bit_equal_with_and_without_watching(tmp_path: Path, unchecked: None) -> None:
    alone = demo_net_after(200, None)
    assert any(state["momentum_buffer"].any() for state in alone["optimizer"])
    for every in (1, "auto"):
        run_dir = tmp_path / str(every)
        watched = demo_net_after(200, lambda *run, d=run_dir, e=every: watch(*run, d, every=e, console=None))
        assert_bit_equal(watched, alone)


def test_closing_in_mid_run_takes_the_hooks_off_and_the_loop_goes_on() -> None:
    loop = Loop()
    run = loop.watch()
    loop.train(run, 0, 5)
    run.close()
    assert hooks(loop.optimizer) == 0
    loop.train(run, 5, 8)  # goes on logging
    assert len(run.steps) == 5
    run.close()


class SyncError(Exception):
    """Somebody waited for the device."""


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, whatever reads a tensor's value in the training thread raises."""

    def forbid() -> None:
        for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "cpu", "nonzero", "numpy"):
            read = getattr(Tensor, name)

            def guarded(self: Tensor, *args: Any, name: str = name, read: Any = read) -> Any:
                if threading.current_thread() is threading.main_thread():
                    raise SyncError(name)
                return read(self, *args)

            monkeypatch.setattr(Tensor, name, guarded)

    return forbid


def test_a_step_that_is_not_recorded_never_waits_for_the_device(
    no_sync: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    run = loop.watch(every=1000)
    loop.train(run, 0, 1)
    no_sync()
    with pytest.raises(SyncError):
        bool(torch.ones(1))
    for _ in range(200):
        loop.optimizer.step()
        run.log(loss=0.5, samples=6)
    monkeypatch.undo()
    assert run._broken is None
    assert hooks(loop.optimizer) == 1  # the hook before the step is there only where the step is due
    run.close()
    assert [row[0] for row in run._reader().query("SELECT step FROM step")] == list(range(201))


def test_a_recorded_step_is_one_that_the_test_above_would_notice(
    no_sync: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    run = loop.watch(every=1)
    loop.train(run, 0, 1)
    no_sync()
    with pytest.warns(RuntimeWarning, match="stopped watching, training goes on: SyncError"):
        loop.optimizer.step()
    monkeypatch.undo()
    assert run._closed
