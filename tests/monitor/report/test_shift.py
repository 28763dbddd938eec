"""The table and figure of covariate shift: each number against one by hand, and nothing where nothing was measured."""

import base64
from array import array
from itertools import pairwise
from math import inf, isnan, nan

import pytest

from truestep.monitor.report import _shift
from truestep.monitor.report._figures import LAYERS
from truestep.monitor.report._shift import FIRST, FIRST_PATH, figures_of, layers_to_draw, words

STEPS = (-0.5, 9.5)


def layer(outlier=4.0, share=0.5):
    return {"nu": 8.0, "largest": 2.0, "outlier": outlier, "lower": 9.0, "upper": 10.0, "ics_share": share}


def path(direct=1.5):
    return {"direct": direct, "direct_weight": 3.0}


def measured(new_book, steps=(0, 3, 6), names=("conv", "fc"), paths=("norm",), **options):
    """Outliers 4, 5, ... times the step plus one; a share of half; direct over full 1.5."""
    book = new_book()
    book.optimizer()
    for step in steps:
        rows = {name: layer((4.0 + place) * (step + 1)) for place, name in enumerate(names)}
        book.shift(step, rows | dict.fromkeys(paths, path()), **options)
    return book


def read(book, bins=300):
    found = _shift.read(book, bins)
    assert found is not None
    return found


def numbers(packed):
    return array(packed["dtype"][0], base64.b64decode(packed["bdata"])).tolist()


def titles(figure):
    return [axis["title"]["text"] for key, axis in figure["layout"].items() if key.startswith("yaxis")]


# --- what is read


def test_the_table_has_the_latest_measurement_as_it_was_written_normalization_layers_last(new_book) -> None:
    book = measured(new_book, steps=(), paths=())
    book.shift(2, {"norm": path(), "conv": layer()})  # the first layers that the record hears of
    book.shift(5, {"norm": path(0.25), "conv": layer(7.0), "fc": layer(inf, None)}, train_mode=0, batches=3)
    found = read(book)
    assert (found.step, found.optimizer, found.train_mode, found.batches, found.times) == (5, "SGD", False, 3, 2)
    assert [row.name for row in found.rows] == ["conv", "fc", "norm"]
    conv, fc, norm = found.rows
    assert (conv.n, conv.features, conv.nu, conv.largest, conv.outlier) == (64, 9, 8.0, 2.0, 7.0)
    assert (conv.lower, conv.upper, conv.ics_share) == (9.0, 10.0, 0.5)
    assert isnan(conv.direct)
    assert fc.outlier == inf
    assert isnan(fc.ics_share)
    assert (norm.n, norm.direct, norm.direct_weight) == (0, 0.25, 3.0)
    assert isnan(norm.nu)


def test_a_share_is_said_to_be_there_where_one_is(new_book) -> None:
    assert read(measured(new_book)).shared
    book = measured(new_book, steps=())
    book.shift(0, {"fc": layer(share=None)})
    assert not read(book).shared


def test_one_measurement_has_no_lines_and_several_have_one_a_layer(new_book) -> None:
    assert read(measured(new_book, steps=(3,))).lines == ()
    lines = read(measured(new_book)).lines
    assert [(line.name, line.is_path) for line in lines] == [("conv", False), ("fc", False), ("norm", True)]
    assert lines[1].at == (0.0, 3.0, 6.0)
    assert lines[1].outlier == (5.0, 20.0, 35.0)
    assert lines[1].share == (0.5,) * 3
    assert lines[2].direct == (1.5,) * 3


def test_a_bin_holds_the_means_of_its_steps_and_what_is_not_finite_counts_for_nothing(new_book) -> None:
    book = measured(new_book, steps=())
    for step, (outlier, share) in enumerate([(1.0, 0.25), (3.0, None), (5.0, None), (inf, None)]):
        book.shift(step, {"fc": layer(outlier, share)})
    (line,) = read(book, bins=2).lines
    assert line.at == (0.5, 2.5)
    assert line.outlier == (2.0, 5.0)
    assert line.share[0] == 0.25
    assert isnan(line.share[1])


@pytest.mark.parametrize("bins", [1, 3, 7, 50])
def test_bins_are_few_however_often_it_was_measured(bins, new_book) -> None:
    book = measured(new_book, steps=range(100, 150), names=("fc",), paths=())
    assert 0 < len(read(book, bins).lines[0].at) <= bins


def test_nothing_is_read_where_nothing_was_measured_or_the_record_is_of_an_older_version(new_book) -> None:
    book = new_book()
    assert _shift.read(book, 300) is None
    for table in ("layer", "shift_step", "layer_shift"):
        book.db.execute(f"DROP TABLE {table}")
    assert _shift.read(book, 300) is None


def test_numbers_are_told_in_three_digits_infinity_and_dashes() -> None:
    assert [words(value) for value in (1234.5, 0.001234, inf, nan)] == ["1.23e+03", "0.00123", "∞", "–"]
    assert words(0.123456, 100.0) == "12.3"


# --- what is drawn


def test_every_layer_has_a_line_in_its_panels_over_the_steps_it_was_measured_at(new_book) -> None:
    found = read(measured(new_book))
    (figure,) = figures_of([found], layers_to_draw([found], {}), STEPS)
    assert titles(figure) == ["ν / λ₁(Σ)", "ICS share, %", "direct / full"]
    lines = [(trace["yaxis"], trace["meta"], trace["name"]) for trace in figure["data"]]
    layers = [(axis, FIRST + i, name) for axis in ("y", "y2") for i, name in enumerate(("conv", "fc"))]
    assert lines == [*layers, ("y3", FIRST_PATH, "norm")]
    assert numbers(figure["data"][1]["y"]) == [5.0, 20.0, 35.0]
    assert numbers(figure["data"][2]["y"]) == [50.0] * 3
    assert numbers(figure["data"][2]["x"]) == [0, 3, 6]
    domains = [figure["layout"][axis]["domain"] for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[0][1] == 1
    assert domains[-1][0] == 0
    assert all(low > high for (low, _), (_, high) in pairwise(domains))
    assert figure["layout"]["xaxis"]["anchor"] == "y3"


def test_a_panel_without_numbers_is_left_out(new_book) -> None:
    book = measured(new_book, steps=())
    for step in range(3):
        book.shift(step, {"fc": layer(share=None)})
    found = read(book)
    (figure,) = figures_of([found], layers_to_draw([found], {}), STEPS)
    assert titles(figure) == ["ν / λ₁(Σ)"]
    assert figure["layout"]["xaxis"]["anchor"] == "y"


def test_what_was_measured_once_has_no_figure_beside_a_run_that_has(new_book) -> None:
    found = [read(measured(new_book)), None, read(measured(new_book, steps=(4,)))]
    figures = figures_of(found, layers_to_draw(found, {}), STEPS)
    assert [bool(figure) for figure in figures] == [True, False, False]


def test_a_layer_has_the_place_of_its_weight_and_the_others_the_colours_that_are_left(new_book) -> None:
    found = read(measured(new_book, names=("a", "b", "", "c"), paths=("bn1", "bn2")))
    places = layers_to_draw([found], {"b.weight": 0, "weight": 3, "other.weight": 1})
    assert places == {"a": FIRST + 1, "b": 0, "": 3, "c": FIRST + 2, "bn1": FIRST_PATH, "bn2": FIRST_PATH + 1}
    (figure,) = figures_of([found], places, STEPS)
    colours = [trace["line"]["color"] for trace in figure["data"] if trace["yaxis"] == "y"]
    assert colours == [LAYERS[1], LAYERS[0], LAYERS[3], LAYERS[2]]
    assert [trace["name"] for trace in figure["data"] if trace["meta"] == 3] == ["model"] * 2


def test_of_many_layers_as_many_are_drawn_as_there_are_colours(new_book) -> None:
    names, paths = (tuple(f"{kind}{i}" for i in range(40)) for kind in ("fc", "bn"))
    found = read(measured(new_book, names=names, paths=paths))
    places = layers_to_draw([found], {"fc7.weight": 5})
    assert len(places) == 2 * len(LAYERS)
    assert len({place % len(LAYERS) for name, place in places.items() if name.startswith("fc")}) == len(LAYERS)
    (figure,) = figures_of([found], places, STEPS)
    assert len(figure["data"]) == 3 * len(LAYERS)
    assert len(found.rows) == 80


def test_runs_beside_each_other_have_the_same_axes_and_colours(new_book) -> None:
    one, other = read(measured(new_book)), read(measured(new_book, steps=(0, 99), names=("fc", "head")))
    figures = figures_of([one, other], layers_to_draw([one, other], {}), STEPS)
    for axis in ("yaxis", "yaxis2", "yaxis3"):
        assert figures[0]["layout"][axis]["range"] == figures[1]["layout"][axis]["range"]
    (first,), (second,) = ({t["line"]["color"] for t in figure["data"] if t["name"] == "fc"} for figure in figures)
    assert first == second
