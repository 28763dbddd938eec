"""What belongs to a run, not to its blocks: schedule, losses, events."""

import pytest
import torch

from truestep.monitor.report import _queries
from truestep.monitor.report._record import optimizers, spans


@pytest.fixture
def book(new_book):
    made = new_book()
    made.optimizer()
    return made


def test_the_schedule_is_exact_and_reaches_the_last_step(book) -> None:
    for step, lr in ((0, 0.1), (7, 0.01), (9, 0.001)):
        book.lr(step, lr)
    book.step(0)
    book.step(40)
    assert _queries.schedules(book, spans(book)) == {(1, 0): [(0, 0.1), (7, 0.01), (9, 0.001), (40, 0.001)]}


def test_a_long_schedule_keeps_its_extremes_and_what_holds_on(book) -> None:
    for step in range(10_000):
        book.lr(step, {1234: 5.0, 5678: 1e-6, 9_999: 0.10999}.get(step, 0.1 + step / 1e6))
    book.step(9_999)
    line = _queries.schedules(book, spans(book))[1, 0]
    assert len(line) <= 1500
    assert {(1234, 5.0), (5678, 1e-6), (9_999, 0.10999)} <= set(line)
    assert line == sorted(line)


def test_losses_are_means_of_all_samples_between_the_extremes(book) -> None:
    for step, (loss, samples) in enumerate([(1.0, 1.0), (4.0, 3.0), (torch.inf, 1.0), (None, 1.0)]):
        book.step(step, loss=loss, samples=samples)
    (line,) = _queries.losses(book, optimizers(book), spans(book), bins=1)
    assert (line.at, line.least, line.mean, line.greatest) == ((0.5,), (1.0,), (3.25,), (4.0,))
    assert line.infinite == 1


def test_losses_of_a_million_steps_would_be_1500_numbers(book) -> None:
    for step in range(3_001):
        book.step(step, loss=float(step))
    (line,) = _queries.losses(book, optimizers(book), spans(book))
    assert len(line.mean) <= 500
    assert (line.least[0], line.greatest[-1]) == (0.0, 3_000.0)


def test_the_same_loss_of_two_optimizers_is_one_line_and_other_losses_are_two(book) -> None:
    book.optimizer("Muon")
    for step in range(3):
        book.step(step, loss=1.0 + step, optimizer=1)
        book.step(step, loss=1.0 + step, optimizer=2)
    assert [line.optimizer for line in _queries.losses(book, optimizers(book), spans(book))] == ["SGD"]
    book.step(3, loss=7.0, optimizer=2)
    assert [line.optimizer for line in _queries.losses(book, optimizers(book), spans(book))] == ["SGD", "Muon"]


def test_events_are_the_first_in_time_and_counted_in_full(book) -> None:
    for step in reversed(range(5)):
        book.event(step, "tag" if step % 2 else "skipped", f"at {step}")
    told, counts = _queries.events(book, limit=2)
    assert [(name, step, kind, text) for _, name, step, kind, text in told] == [
        ("SGD", 0, "skipped", "at 0"),
        ("SGD", 1, "tag", "at 1"),
    ]
    assert counts == {"skipped": 3, "tag": 2}
