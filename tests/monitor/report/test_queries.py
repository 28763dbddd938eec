"""Rows of a record to few numbers: each against a value by hand, or against the formula on the same rows."""

from math import atan2, isnan, nan, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truestep.core import gram
from truestep.invariance import angular_update, effective_lr, relative_update
from truestep.monitor.report import _queries
from truestep.monitor.report._queries import Taken, joined
from truestep.monitor.report._record import blocks, optimizers, spans


def bins(book, columns=300):
    found = blocks(book)
    by_id = _queries.in_bins(book, found, optimizers(book), columns)
    return {block.name: list(by_id[block.id].values()) for block in found}


def quarter(book, *, last):
    return _queries.in_quarter(book, blocks(book), optimizers(book), spans(book), last=last)


def simple(new_book, **settings):
    book = new_book()
    book.optimizer(settings=[{"lr": 0.1, **settings}])
    book.block("fc.weight")
    return book


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_one_step_reads_as_the_formulas_say_at_every_scale(new_book, scale) -> None:
    book = simple(new_book)
    w, g, d = scale * torch.randn(3, 7, dtype=torch.float64)
    took = gram(w, g, d)
    book.take(5, ww=took.ww.item(), wd=took.wd.item(), gg=took.gg.item(), dd=took.dd.item(), lr=0.3)
    (taken,) = bins(book)["fc.weight"]
    assert taken.angle == pytest.approx(angular_update(took).item(), rel=1e-12)
    assert taken.relative == pytest.approx(relative_update(took).item(), rel=1e-12)
    assert taken.effective_lr == pytest.approx(effective_lr(took, 0.3).item(), rel=1e-12)
    assert (taken.w, taken.g) == pytest.approx((w.norm().item(), g.norm().item()), rel=1e-12)
    assert 1 + taken.radial + taken.growth == pytest.approx(((w + d) @ (w + d) / (w @ w)).item(), rel=1e-12)


def test_the_angle_of_a_step_through_the_origin_is_half_a_turn(new_book) -> None:
    book = simple(new_book)
    book.take(0, ww=1.0, wd=-2.0, dd=4.0)
    assert bins(book)["fc.weight"][0].angle == pytest.approx(torch.pi)


def test_a_bin_is_the_root_mean_square_of_small_angles_and_relative_updates(new_book) -> None:
    book = simple(new_book)
    book.take(0, ww=1.0, dd=9e-10)
    book.take(1, ww=4.0, dd=64e-10)
    (taken,) = bins(book, columns=1)["fc.weight"]
    assert taken.relative == pytest.approx(1e-5 * sqrt((9 + 16) / 2), rel=1e-12)
    assert taken.angle == pytest.approx(taken.relative, rel=1e-8)
    assert taken.w == pytest.approx(sqrt(2.5))
    assert (taken.rows, taken.first, taken.last, taken.at) == (2, 0, 1, 0.5)


@given(steps=st.sets(st.integers(0, 10_000), min_size=1, max_size=40), columns=st.integers(1, 30))
def test_bins_are_few_and_hold_every_row_once(open_book, steps, columns) -> None:
    book = open_book()
    book.optimizer()
    book.block("fc.weight")
    for step in steps:
        book.take(step)
    found = bins(book, columns)["fc.weight"]
    book.close()
    assert len(found) <= columns
    assert sum(taken.rows for taken in found) == len(steps)
    assert {taken.first for taken in found} | {taken.last for taken in found} <= steps


def test_the_prediction_is_that_of_heavy_ball_sgd_with_coupled_decay(new_book) -> None:
    book = simple(new_book)
    book.take(0, lr=0.1, weight_decay=5e-3, momentum=0.9)
    assert bins(book)["fc.weight"][0].predicted == pytest.approx(0.0229416, rel=1e-5)


@pytest.mark.parametrize(("rule", "settings"), [("AdamW", {}), ("Adam", {"decoupled_weight_decay": True})])
def test_decoupled_adam_s_prediction_has_beta1_for_momentum(new_book, rule, settings) -> None:
    book = new_book()
    book.optimizer(rule, settings=[settings])
    book.block("fc.weight")
    book.take(0, lr=1e-3, weight_decay=0.1, momentum=None, beta1=0.9)
    assert bins(book)["fc.weight"][0].predicted == pytest.approx(sqrt(2e-4 / 19), rel=1e-12)


@pytest.mark.parametrize(
    ("rule", "settings", "row"),
    [
        ("Adam", {}, {"momentum": None, "beta1": 0.9}),
        ("AdamW", {"amsgrad": True}, {"momentum": None, "beta1": 0.9}),
        ("SGD", {"nesterov": True}, {}),
        ("SGD", {"dampening": 0.5}, {}),
        ("SGD", {}, {"weight_decay": 0.0}),
        ("RMSprop", {}, {}),
    ],
)
def test_nothing_is_predicted_where_the_formula_does_not_hold(new_book, rule, settings, row) -> None:
    book = new_book()
    book.optimizer(rule, settings=[{}, settings])
    book.block("fc.weight")
    book.take(0, **row)
    assert isnan(bins(book)["fc.weight"][0].predicted)


def test_sgd_without_momentum_settles_at_the_root_of_two_lr_wd(new_book) -> None:
    book = simple(new_book)
    book.take(0, lr=0.02, weight_decay=0.01, momentum=None)
    assert bins(book)["fc.weight"][0].predicted == pytest.approx(0.02)


@pytest.mark.parametrize("bad", [{"ww": nan}, {"dd": torch.inf}, {"wd": -torch.inf, "dd": nan}])
def test_rows_that_are_not_finite_have_no_weight_and_are_told(new_book, bad) -> None:
    book = simple(new_book)
    book.take(0)
    book.take(1, **bad)
    book.take(2, gg=torch.inf)
    (taken,) = bins(book, columns=1)["fc.weight"]
    assert (taken.w, taken.d, taken.g) == pytest.approx((10.0, 1.0, 2.0))
    assert taken.angle == pytest.approx(atan2(0.1, 1.0))
    assert _queries.nonfinite(book) == [("fc.weight", 2, 1, 2)]


def test_a_bin_of_nothing_finite_is_a_gap_and_a_zero_weight_has_no_angle(new_book) -> None:
    book = simple(new_book)
    book.take(0, ww=nan, gg=nan)
    book.take(1, ww=0.0)
    empty, zero = bins(book)["fc.weight"]
    assert all(isnan(v) for v in (empty.angle, empty.w, empty.g, empty.effective_lr, empty.radial))
    assert isnan(zero.angle)
    assert zero.w == 0.0


def test_skipped_steps_are_left_out(new_book) -> None:
    book = simple(new_book)
    book.take(0)
    book.take(1, dd=0.0)
    book.step(0)
    book.step(1, skipped=1)
    assert [taken.first for taken in bins(book)["fc.weight"]] == [0]
    assert 1 not in quarter(book, last=True)


def test_a_skipped_step_of_one_optimizer_is_none_of_the_other(new_book) -> None:
    book = simple(new_book)
    book.optimizer("AdamW")
    book.block("emb.weight", optimizer=2)
    for number in (1, 2):
        book.take(0, block=number, optimizer=number)
        book.step(0, optimizer=number, skipped=int(number == 1))
    assert {name: len(found) for name, found in bins(book).items()} == {"fc.weight": 0, "emb.weight": 1}


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [
        ([4], (4, 4), (4, 4)),
        ([0, 1, 2, 3], (0, 0), (3, 3)),
        (list(range(8)), (0, 1), (6, 7)),
        ([0, 100], (0, 0), (100, 100)),
    ],
)
def test_a_quarter_is_one_of_the_recorded_steps_and_at_least_one(new_book, steps, first, last) -> None:
    book = simple(new_book)
    for step in steps:
        book.take(step)
        book.step(step)
    for ends, at_end in ((first, False), (last, True)):
        taken = quarter(book, last=at_end)[1]
        assert (taken.first, taken.last) == ends


def test_each_optimizer_has_quarters_of_its_own_steps(new_book) -> None:
    book = simple(new_book)
    book.optimizer("AdamW")
    book.block("emb.weight", optimizer=2)
    for step in range(16):
        book.take(step)
        book.step(step)
    for step in range(4):
        book.take(step, block=2, optimizer=2)
        book.step(step, optimizer=2)
    found = quarter(book, last=True)
    assert {id_: (taken.first, taken.last) for id_, taken in found.items()} == {1: (12, 15), 2: (3, 3)}


def test_joined_bins_are_the_bin_of_all_their_rows(new_book) -> None:
    book = simple(new_book)
    for step, (ww, wd, dd) in enumerate([(1.0, 1e-6, 1e-8), (4.0, -2e-6, 9e-8), (9.0, 5e-6, 4e-8)]):
        book.take(step, ww=ww, wd=wd, dd=dd, gg=float(step + 1))
    (whole,) = bins(book, columns=1)["fc.weight"]
    parts = bins(book, columns=2)["fc.weight"]
    assert [part.rows for part in parts] == [2, 1]
    for name in Taken.__slots__:
        tolerance = 1e-4 if name == "angle" else 1e-12  # the root mean square of angles, not the angle of the means
        assert getattr(joined(parts), name) == pytest.approx(getattr(whole, name), rel=tolerance), name
