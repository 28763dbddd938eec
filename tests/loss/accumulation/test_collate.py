"""Micro-batches of any structure become the batch that they were cut from, or a line that names the place."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

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


def test_a_fresh_batch_has_new_containers_around_the_same_tensors() -> None:
    batch = {"x": torch.zeros(2), "deep": [torch.ones(2), {"y": None}]}
    copy = fresh(batch)
    copy["deep"][1].pop("y")
    copy.pop("x")
    assert list(batch) == ["x", "deep"]
    assert batch["deep"][1] == {"y": None}
    assert copy["deep"][0] is batch["deep"][0]
