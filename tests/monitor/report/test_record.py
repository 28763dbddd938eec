"""What a record holds, and which of its blocks are drawn."""

import pytest

from truestep.monitor.report._record import Block, blocks, choose, choose_names, optimizers, spans


def made(*names, kind="Linear.weight", shape=(4, 4), numel=16) -> list[Block]:
    return [Block(i, name, shape, numel, kind, None, 1) for i, name in enumerate(names)]


def test_blocks_that_no_optimizer_moves_are_left_out(new_book) -> None:
    book = new_book()
    book.optimizer()
    book.block("fc.weight", shape=(10, 3), symmetry="unit")
    book.block("frozen.weight", optimizer=None)
    (found,) = blocks(book)
    assert (found.name, found.shape, found.numel, found.symmetry) == ("fc.weight", (10, 3), 30, "unit")


def test_a_span_counts_steps_taken_recorded_and_skipped(new_book) -> None:
    book = new_book()
    book.optimizer()
    book.block("fc.weight")
    for step in range(3, 10):
        book.step(step, skipped=int(step == 5))
    for step in (4, 8):
        book.take(step)
    span = spans(book)[1]
    assert (span.taken, span.skipped, span.end) == (7, 1, 9)
    assert (span.first, span.last, span.recorded) == (4, 8, 2)


def test_a_run_without_steps_has_no_spans(new_book) -> None:
    assert spans(new_book()) == {}


@pytest.mark.parametrize("text", [None, "", "[", '{"lr": 1}', "[1, 2]"])
def test_settings_that_cannot_be_read_are_none(new_book, text) -> None:
    book = new_book()
    book.db.execute("INSERT INTO optimizer VALUES (1, 'SGD', 'SGD', ?)", (text,))
    assert optimizers(book)[1].settings == ()


def test_the_largest_weights_are_drawn_in_the_models_order() -> None:
    found = [
        Block(0, "a.bias", (900,), 900, "Linear.bias", None, 1),
        Block(1, "a.weight", (2, 2), 4, "Linear.weight", None, 1),
        Block(2, "norm.weight", (500,), 500, "LayerNorm.weight", None, 1),
        Block(3, "b.weight", (5, 5), 25, "Conv2d.weight", None, 1),
        Block(4, "c.weight", (3, 3), 9, "Linear.weight", None, 1),
        Block(5, "u.weight[0]", (700,), 700, "Linear.weight", None, 1),
    ]
    assert [block.name for block in choose(found, 2)] == ["b.weight", "c.weight"]
    assert [block.name for block in choose(found, 9)] == ["a.weight", "b.weight", "c.weight", "u.weight[0]"]


def test_biases_are_drawn_where_there_is_nothing_else() -> None:
    found = made("a.bias", "b.bias", kind="Linear.bias", shape=(4,))
    assert [block.name for block in choose(found, 9)] == ["a.bias", "b.bias"]


def test_runs_of_one_net_share_their_names_and_runs_of_two_nets_the_colours() -> None:
    same = made(*"abcdef")
    assert choose_names([same, same], 4) == list("abcd")
    assert choose_names([same, made(*"uvwxyz")], 4) == ["a", "b", "u", "v"]
    assert choose_names([], 4) == []
