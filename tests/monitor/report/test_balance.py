"""The figure of the tasks: each number against one by hand, and nothing where nothing was balanced."""

import base64
from array import array
from itertools import pairwise
from math import inf, isnan

import pytest

from truestep.monitor.report import _balance
from truestep.monitor.report._balance import FIRST, PANELS, figures_of, tasks_to_draw
from truestep.monitor.report._figures import LAYERS

STEPS = (-0.5, 9.5)


def balanced(new_book, steps=4, tasks=("a", "b"), **factors):
    """Weights 1, 2, ... times the step's power of two; norms 3; ratios 1/(step + 1)."""
    book = new_book()
    for step in range(steps):
        rows = {task: ((i + 1) * 2.0**step, 3.0, 1 / (step + 1), 1.0) for i, task in enumerate(tasks)}
        book.balance(step, rows, **factors)
    return book


def read(book, bins=300):
    found = _balance.read(book, bins)
    assert found is not None
    return found


def test_one_step_a_bin_reads_as_it_was_written(new_book) -> None:
    found = read(balanced(new_book, step_factor=0.5, trunk_factor=0.25))
    assert [task.name for task in found.tasks] == ["a", "b"]
    assert found.at == found.tasks[1].at == (0.0, 1.0, 2.0, 3.0)
    assert found.tasks[1].weight == (2.0, 4.0, 8.0, 16.0)
    assert found.tasks[1].pull == (6.0, 12.0, 24.0, 48.0)
    assert found.tasks[1].ratio == pytest.approx((1, 1 / 2, 1 / 3, 1 / 4))
    assert (found.step_factor, found.trunk_factor) == ((0.5,) * 4, (0.25,) * 4)


def test_a_bin_holds_the_means_of_its_steps_and_what_is_not_finite_counts_for_nothing(new_book) -> None:
    book = new_book()
    for step, (weight, norm) in enumerate([(1.0, 3.0), (3.0, None), (5.0, 1.0), (inf, 1.0)]):
        book.balance(step, {"a": (weight, norm, None, None)}, step_factor=float(step))
    found = read(book, bins=2)
    assert found.at == (0.5, 2.5)
    assert found.tasks[0].weight == (2.0, 5.0)
    assert found.tasks[0].pull == (3.0, 5.0)
    assert all(map(isnan, found.tasks[0].ratio))
    assert found.step_factor == (0.5, 2.5)


def test_bins_are_few_however_long_the_run(new_book) -> None:
    book = balanced(new_book, steps=50)
    for bins in (1, 3, 7, 50):
        assert len(read(book, bins).at) <= bins


def test_nothing_is_drawn_where_nothing_was_balanced_or_the_record_is_of_version_1(new_book) -> None:
    book = new_book()
    assert _balance.read(book, 300) is None
    for table in ("task", "task_step", "balance_step"):
        book.db.execute(f"DROP TABLE {table}")
    assert _balance.read(book, 300) is None


def numbers(packed):
    return array(packed["dtype"][0], base64.b64decode(packed["bdata"])).tolist()


def test_every_task_has_a_line_in_each_panel_and_the_page_hides_them_together(new_book) -> None:
    found = read(balanced(new_book, trunk_factor=0.25))
    (figure,) = figures_of([found], tasks_to_draw([found]), STEPS)
    lines = [(trace["yaxis"], trace.get("meta"), trace["name"]) for trace in figure["data"]]
    of_tasks = [(axis, FIRST + i, task) for axis in ("y", "y2", "y3") for i, task in enumerate("ab")]
    assert lines == [*of_tasks, ("y4", None, "step factor"), ("y4", None, "of the summed gradient")]
    assert numbers(figure["data"][3]["y"]) == [6.0, 12.0, 24.0, 48.0]
    axes = [key for key in figure["layout"] if key.startswith("yaxis")]
    assert [figure["layout"][axis]["title"]["text"] for axis in axes] == [title for title, _ in PANELS]
    domains = [figure["layout"][axis]["domain"] for axis in axes]
    assert all(low > high for (low, _), (_, high) in pairwise(domains))
    assert len({trace["line"]["color"] for trace in figure["data"][:6]}) == 2


def test_the_factor_of_the_summed_gradient_is_drawn_only_where_it_was_measured(new_book) -> None:
    found = read(balanced(new_book))
    (figure,) = figures_of([found], tasks_to_draw([found]), STEPS)
    assert [trace["name"] for trace in figure["data"] if trace["yaxis"] == "y4"] == ["step factor"]


def test_runs_beside_each_other_have_the_same_axes_and_colours_and_one_without_tasks_has_no_figure(new_book) -> None:
    one, other = read(balanced(new_book)), read(balanced(new_book, steps=9, tasks=("b", "c")))
    figures = figures_of([one, None, other], places := tasks_to_draw([one, None, other]), STEPS)
    assert list(places) == ["a", "b", "c"]
    assert figures[1] == {}
    for axis in ("yaxis", "yaxis2", "yaxis3", "yaxis4"):
        assert figures[0]["layout"][axis]["range"] == figures[2]["layout"][axis]["range"]
    (first,), (second,) = ({t["line"]["color"] for t in figures[i]["data"] if t["name"] == "b"} for i in (0, 2))
    assert first == second


def test_of_many_tasks_as_many_are_drawn_as_there_are_colours(new_book) -> None:
    found = read(balanced(new_book, steps=1, tasks=tuple(f"t{i}" for i in range(40))))
    places = tasks_to_draw([found])
    assert list(places) == [f"t{i}" for i in range(len(LAYERS))]
    (figure,) = figures_of([found], places, STEPS)
    assert len(figure["data"]) == 3 * len(LAYERS) + 1
