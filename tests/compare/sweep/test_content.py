"""What a trial is, as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests import forked

from truestep.compare import AdaBelief, problems
from truestep.compare.sweep import content, content_hash
from truestep.compare.sweep._content import described


class Colour(Enum):
    RED = 1


class Pair(NamedTuple):
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Point:
    x: float | int
    y: float | int = 0

    def shifted(self, by: float) -> Any:
        return Point(self.x + by, self.y)


def give(*values: Any, **named: Any) -> dict[str, Any]:
    return {}


DIFFERENT = (
    *(None, True, 1, 2, 0.1, math.nextafter(0.1, 1), math.nan, math.inf, -math.inf, -0.0, 0.0, 1 + 2j, "1", b"1"),
    *((1, 2), [1, 2], {1, 2}, {1: 2}, {"1": 2}, {2: 1}, range(3), Path("a"), "a", Pair(1, 2), Colour.RED),
    *(Point(1), Point(1, 2), Point(1).shifted, Point(2).shifted, Point, give, partial(give), partial(give, 1)),
    *(partial(give, a=1), partial(partial(give, 1), 1), torch.float32, torch.float64, torch.device("cpu"), "cpu"),
    *(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.ones(2), torch.zeros(0), torch.zeros(0, 1)),
    *(
        torch.tensor([1 + 2j]),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).imag,
        torch.tensor([1 + 2j]).conj().imag,
    ),
    *(np.int64(1), np.int32(1), np.float32(0.1), np.float32(0.2), np.array(1.0)),
    *(torch.optim.Adam, torch.optim.AdamW, partial(torch.optim.Adam, lr=0.1), AdaBelief, problems.digits_mlp),
)


def test_what_differs_has_another_hash() -> None:
    hashes = [content_hash(partial(give, value)) for value in DIFFERENT]
    assert len(set(hashes)) == len(DIFFERENT)


def test_what_is_equal_has_the_same_hash() -> None:
    def made(weights: torch.Tensor) -> partial[Any]:
        return partial(give, problems.digits_mlp(), Point(1), weights, {3, 1, 2}, b=2, a=partial(AdaBelief, lr=1e-3))

    weights = torch.arange(6.0).view(2, 3)
    assert content(made(weights)) == content(made(weights.T.clone().T))


def test_the_order_of_keywords_does_not_count() -> None:
    assert content_hash(partial(give, a=1, b=2)) == content_hash(partial(give, b=2, a=1))


@pytest.mark.parametrize("one", ["0.001", ".001", "1e-3", "1E-03"])
def test_a_number_is_known_by_its_value_however_it_is_written(one: str) -> None:
    assert content(partial(give, lr=float(one))) == content(partial(give, lr=0.001))
    assert content(partial(give, lr=np.float64(one))) == content(partial(give, lr=0.001))


def test_the_default_number_format_counts() -> None:
    before = content(partial(give))
    torch.set_default_dtype(torch.float64)
    try:
        assert content(partial(give)) != before
    finally:
        torch.set_default_dtype(torch.float32)
    assert content(partial(give)) == before


def test_a_tensor_that_is_a_view_is_known_by_its_values() -> None:
    whole = torch.arange(6.0).view(2, 3)
    assert described(whole.T) == described(whole.T.clone())
    assert described(whole[1]) == described(torch.tensor([3.0, 4.0, 5.0]))


def test_a_shared_part_of_a_tensor_does_not_count() -> None:
    assert described(torch.arange(6.0)[:2]) == described(torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("problem", problems.PROBLEMS, ids=lambda problem: problem.__name__)
def test_every_problem_has_a_content_that_is_json(problem: Callable[[], Any]) -> None:
    text = content(partial(give, problem()))
    assert json.loads(text)["trial"]["arguments"][0]["fields"]["name"] == problem().name
    assert content(partial(give, problem())) == text


def test_another_process_finds_the_same_hash() -> None:
    code = (
        "from functools import partial; import torch; from truestep.compare import problems, sweep;"
        "print(sweep.content_hash(partial(dict, a={'c', 'b', 'a'}, p=problems.digits_mlp(), t=torch.arange(3))))"
    )
    printed = forked.run("-c", code).stdout.strip()
    here = partial(dict, a={"a", "b", "c"}, p=problems.digits_mlp(), t=torch.arange(3))
    assert printed == content_hash(here)


def test_the_versions_of_torch_and_truestep_count(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, before = partial(dict, a=1), content_hash(partial(dict, a=1))
    for package in ("torch", "truestep"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{package}.__version__", "0.0.1")
            assert content_hash(trial) != before


def test_the_version_of_another_package_counts_where_something_is_taken_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest_raises, json_dumps = partial(dict, a=pytest.raises), partial(dict, a=json.dumps)
    before = content_hash(pytest_raises), content_hash(json_dumps)
    monkeypatch.setattr("_pytest.__version__", "0.0.1")
    after = content_hash(pytest_raises), content_hash(json_dumps)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]


def local() -> dict[str, Any]:
    return {}


anonymous = lambda: {}  # noqa: E731, PIE807
renamed, local = local, dict  # type: ignore[assignment]  # the name now stands for something else


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (anonymous, "<lambda>"),
        (renamed, "local"),
        (partial(give, lambda x: x), "<lambda>"),
        (partial(give, [Fraction(1, 2)]), r"fractions\.Fraction"),
        (partial(give, torch.nn.Linear(1, 1)), r"torch\.nn\.modules\.linear\.Linear"),
        (partial(give, a=object()), r"builtins\.object"),
        (partial(give, np.ones(2)), r"numpy\.ndarray"),
        (
            partial(give, torch.eye(2).to_sparse()),
            "dense tensors with values, found one of layout torch.sparse_coo on cpu",
        ),
        (partial(give, torch.empty(2, device="meta")), "dense tensors with values, found .* on meta"),
    ],
)
def test_what_has_no_importable_name_is_refused_with_advice(wrong: Any, named: str) -> None:
    with pytest.raises(ValueError, match=rf"^`trials` .*{named}.*: give functools.partial of an importable name$"):
        content(wrong)


def test_a_function_inside_a_function_is_refused() -> None:
    def inner() -> dict[str, Any]:
        return {}

    with pytest.raises(ValueError, match="<locals>"):
        content(inner)
