"""Blocks are written down once, and told of when something becomes of them."""

from dataclasses import replace

import torch
from tests.monitor.loops import Net
from tests.monitor.written import a_step

from truestep.monitor._blocks import Blocks
from truestep.monitor.sinks import Store

NAMES = ("fc.weight", "fc.bias")


def blocks_of(store: Store) -> Blocks:
    return Blocks(Net(), (), store, ("fc.bias",), {"conv.weight": "unit"})


def test_every_block_and_wanted_unit_is_written_down_also_where_no_optimizer_holds_it(store: Store) -> None:
    blocks_of(store)
    store.flush()
    with store.reader() as run:
        told = [(block.name, block.shape, block.kind, block.symmetry, block.optimizer) for block in run.blocks]
    assert told == [
        ("conv.weight", (4, 1, 3, 3), "Conv2d.weight", "unit", None),
        ("norm.weight", (4,), "BatchNorm2d.weight", None, None),
        ("norm.bias", (4,), "BatchNorm2d.bias", None, None),
        ("fc.weight", (3, 4), "Linear.weight", None, None),
        ("fc.bias", (3,), "Linear.bias", None, None),
        *((f"fc.bias[{i}]", (), "Linear.bias", None, None) for i in range(3)),
    ]


def test_what_an_optimizer_moves_later_is_told_with_its_step_and_what_it_moves_no_more_is_not(store: Store) -> None:
    blocks = blocks_of(store)
    for index, names in enumerate((NAMES[:1], NAMES, NAMES, NAMES[1:], NAMES)):
        blocks.note_added(a_step(index, names=names))
    store.flush()
    with store.reader() as run:
        assert [(event.kind, event.step, event.text) for event in run.events] == [
            ("added", 1, "fc.bias"),
            ("added", 4, "fc.weight"),
        ]


def test_a_block_that_is_no_longer_finite_is_told_of_once(store: Store) -> None:
    blocks = blocks_of(store)
    for index, bad in enumerate(([], [1], [1], [0, 1])):
        step = a_step(index, names=NAMES)
        gg = step.took.gg.clone()
        gg[bad] = torch.inf
        blocks.note_nonfinite(replace(step, took=replace(step.took, gg=gg)))
    store.flush()
    with store.reader() as run:
        assert [(event.step, event.text.rpartition(" in ")[2]) for event in run.events] == [
            (1, "fc.bias"),
            (3, "fc.weight"),
        ]
