"""Micro-batches of any structure become the batch that they were cut from, or a line that names the place."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from truestep.loss.accumulation._collate import fresh, joined, leaves

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Item:
    x: Tensor
    name: str = "a"


class Encoding(UserDict[str, Any]):
    """As tokenizers give them: keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


def structures(x: Tensor) -> dict[str, Any]:
    """One batch in every container that is known."""
    return {
        "tensor": x,
        "dict": {"x": x, "deep": {"y": x[:, 0]}},
        "list": [x, x[:, 0]],
        "tuple": (x, (x[:, 0],)),
        "namedtuple": Point(x, x[:, 0]),
        "dataclass": Item(x),
        "ordered": OrderedDict(x=x),
        "encoding": Encoding(x=x, y=x[:, 0]),
        "with the rest": {
            "x": x,
            "temperature": 0.5,
            "nothing": None,
            "scale": torch.tensor(2.0),
            "mask": torch.ones(7),
        },
    }


@pytest.mark.parametrize("name", structures(torch.zeros(1, 1)))
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_what_was_cut_is_joined(name: str, sizes: list[int]) -> None:
    whole = torch.randn(sum(sizes), 3)
    made, wanted = joined([structures(part)[name] for part in whole.split(sizes)]), structures(whole)[name]
    assert type(made) is type(wanted)
    for (path, found), (expected_path, expected) in zip(leaves(made), leaves(wanted), strict=True):
        assert path == expected_path
        assert torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected


def test_words_are_strung_together() -> None:
    assert joined([["a", "b"], ["c"]]) == ["a", "b", "c"]
    assert joined([{"text": ["a"], "x": torch.zeros(1)}, {"text": ["a"], "x": torch.ones(1)}])["text"] == ["a", "a"]


def one(items: int, **more: Any) -> dict[str, Any]:
    return {"x": torch.zeros(items, 2), **more}


REFUSED = {
    "shapes": ([one(2, ids=torch.zeros(2, 3)), one(2, ids=torch.zeros(2, 5))], r'`batch\["ids"\]` cannot be joined'),
    "deep": ([one(1, a=[torch.zeros(1, n)]) for n in (1, 2)], r'`batch\["a"\]\[0\]` cannot be joined'),
    "attribute": ([Item(torch.zeros(1, n)) for n in (1, 2)], r"`batch\.x` cannot be joined"),
    "scalars": ([one(2, n=torch.tensor(n)) for n in (1, 2)], r'`batch\["n"\]` \(Tensor\) differs'),
    "numbers": ([one(2, n=n) for n in (1, 2)], r'`batch\["n"\]` \(int\) differs'),
    "rows": ([one(2, w=torch.arange(3.0) * n) for n in (1, 2)], r"\[3, 3\] rows where the micro-batches have \[2, 2\]"),
    "keys": ([one(2), one(2, y=torch.zeros(2))], "`batch` is not built alike"),
    "kinds": ([one(2, y=torch.zeros(2)), one(2, y=[torch.zeros(2)])], r'`batch\["y"\]` is not built alike|differs'),
    "packed": ([pack_sequence([torch.zeros(n)]) for n in (1, 2)], r"`batch` \(PackedSequence\) differs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_joined_is_named_with_what_to_do(name: str) -> None:
    batches, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as refused:
        joined(batches)
    assert "`collate`" in str(refused.value)


def test_arrays_are_refused_with_the_way_to_tensors() -> None:
    with pytest.raises(
        ValueError, match=r"`batch\[0\]` \(ndarray\) is no tensor: give torch tensors \(`torch.from_numpy"
    ):
        joined([(np.zeros((2, 3)),), (np.zeros((2, 3)),)])


def test_a_fresh_batch_has_new_containers_around_the_same_values() -> None:
    batch = {"x": torch.zeros(2), "deep": [torch.ones(2, requires_grad=True), {"y": None}], "name": object()}
    copy = fresh(batch)
    assert torch.equal(copy["deep"][0], batch["deep"][0])
    assert copy["deep"][0].requires_grad
    assert copy["name"] is batch["name"]
    copy["deep"][1].pop("y")
    copy.pop("x")
    assert list(batch) == ["x", "deep", "name"]
    assert batch["deep"][1] == {"y": None}


class Graph:
    """As other packages' batches are: no container, but with a `clone`."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def clone(self) -> "Graph":
        return Graph(self.x.clone())


WRITTEN: dict[str, tuple[Any, Any]] = {
    "tensor": (torch.zeros(2), lambda batch: batch),
    "packed": (pack_sequence([torch.zeros(2)]), lambda batch: batch.data),
    "array": (np.zeros(2), lambda batch: batch),
    "clone": (Graph(torch.zeros(2)), lambda batch: batch.x),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_into_a_fresh_batch_is_not_written_into_the_user_s(name: str) -> None:
    batch, values = WRITTEN[name]
    found = values(fresh([batch])[0])
    found += 1.0
    assert (float(found.sum()), float(values(batch).sum())) == (2.0, 0.0)
