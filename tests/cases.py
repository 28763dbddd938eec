"""Tensors that the laws are tried on, the laws that several records share, and the products written out plainly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import reduce
from itertools import product
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from truestep.core import Gram, gram, moments, sum_count, task_gram

Triple = tuple[Tensor, Tensor, Tensor]  # weight, gradient, displacement
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def _randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype)


def _sparse_rows() -> Tensor:
    indices = torch.tensor([[4, 0, 4]])  # row 4 twice: not coalesced
    return torch.sparse_coo_tensor(indices, _randn(3, 5), (6, 5), check_invariants=True)


def _strided(*layouts: Callable[[Tensor], Tensor]) -> Triple:
    w, g, d = (layout(_randn(4, 6, 3, 2)) for layout in layouts)
    return w, g, d


def _plain(x: Tensor) -> Tensor:
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _spread(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
    wide[..., ::2] = x
    return wide[..., ::2]  # nan between the elements: a product that reads memory and not elements shows


CASES: dict[str, Callable[[], Triple]] = {
    "vector": lambda: (_randn(7), _randn(7), _randn(7)),
    "matrix": lambda: (_randn(5, 3), _randn(5, 3), _randn(5, 3)),
    "single": lambda: (_randn(1), _randn(1), _randn(1)),
    "bfloat16": lambda: (_randn(9, dtype=torch.bfloat16), _randn(9, dtype=torch.bfloat16), _randn(9)),
    "float16": lambda: (_randn(9, dtype=torch.float16), _randn(9, dtype=torch.float16), _randn(9)),
    "float64": lambda: (_randn(9, dtype=torch.float64), _randn(9, dtype=torch.float64), _randn(9)),
    "complex": lambda: (
        _randn(4, 3, dtype=torch.complex64),
        _randn(4, 3, dtype=torch.complex64).conj(),  # lazily conjugated
        _randn(4, 3, dtype=torch.complex128),
    ),
    "channels_last": lambda: _strided(_channels_last, _channels_last, _channels_last),
    "mixed strides": lambda: _strided(_channels_last, _plain, _transposed),
    "transposed": lambda: _strided(_transposed, _transposed, _transposed),
    "spread": lambda: _strided(_spread, _spread, _spread),
    "expanded": lambda: (_randn(5, 1).expand(5, 3), _randn(3).expand(5, 3), _randn(5, 3)),
    "sparse": lambda: (_randn(6, 5), _sparse_rows(), _randn(6, 5)),
    "no elements": lambda: (_randn(0), _randn(0), _randn(0)),
    "rows of no elements": lambda: (_randn(3, 0), _randn(3, 0), _randn(3, 0)),
    "no rows": lambda: (_randn(0, 3), _randn(0, 3), _randn(0, 3)),
    "zeros": lambda: (torch.zeros(4), torch.zeros(4), torch.zeros(4)),
    "zero weight": lambda: (torch.zeros(4), _randn(4), _randn(4)),
}


# Each record of rows of [3, features]: any cut of the rows is a cut of what the record sums over.
RECORDS: dict[str, Callable[[Tensor], Any]] = {
    "Gram": lambda x: gram(*x.unbind(1)),
    "Gram of units": lambda x: gram(*x.unbind(1), unit_dim=-1),
    "SumCount": lambda x: sum_count(x[:, 0], x[:, 1]),
    "TaskGram": lambda x: task_gram({"depth": x[:, 0], "pose": x[:, 1], "still": torch.zeros_like(x[:, 0])}),
    "Moments": lambda x: moments(x[:, 0]),
}


def dense64(x: Tensor) -> Tensor:
    """`x` as dense real float64 with its shape, complex numbers as one more dimension."""
    x = x.to_dense() if x.layout != torch.strided else x
    return torch.view_as_real(x.resolve_conj()).double() if x.is_complex() else x.double()


def explicit(w: Tensor, g: Tensor | None, d: Tensor, unit_dim: int | None = None) -> Gram:
    """The Gram by plain float64 products of whole tensors, for comparison."""
    vectors = [dense64(w), torch.zeros_like(dense64(w)) if g is None else dense64(g), dense64(d)]
    keep = None if unit_dim is None else unit_dim % w.dim()

    def dot(i: int, j: int) -> Tensor:
        dims = [k for k in range(vectors[i].dim()) if k != keep]
        product = vectors[i] * vectors[j]
        return product.sum(dims) if dims else product

    return Gram(dot(0, 0), dot(0, 1), dot(0, 2), dot(1, 1), dot(1, 2), dot(2, 2))


def stacked(grams: Iterable[Gram]) -> Gram:
    """Grams of single blocks, one after another."""
    return Gram.from_columns(torch.stack([gram.columns() for gram in grams]))


def assert_same_gram(found: Gram, expected: Gram, tolerance: float = 1e-12) -> None:
    """Equal products, each to `tolerance` of the norms that it is made of (the sum of a product may cancel)."""
    norms = {"w": expected.ww.sqrt(), "g": expected.gg.sqrt(), "d": expected.dd.sqrt()}
    for field in fields(Gram):
        mine, other = getattr(found, field.name), getattr(expected, field.name)
        assert mine.shape == other.shape, field.name
        size = norms[field.name[0]] * norms[field.name[1]]
        off = (mine - other).abs()
        assert bool(((off <= tolerance * size) | (mine == other)).all()), (field.name, mine, other)


def assert_additive(whole: Any, parts: Iterable[Any], tolerance: float = 1e-12) -> None:
    """The records of the parts add up to the record of the whole, in any order."""
    parts = list(parts)
    for total in (reduce(add, parts), reduce(add, reversed(parts))):
        if isinstance(whole, Gram):
            assert_same_gram(total, whole, tolerance)
            continue
        for field in fields(whole):
            mine, other = getattr(total, field.name), getattr(whole, field.name)
            if isinstance(other, Tensor):
                size = float(other.abs().max()) if other.numel() else 0.0
                torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * size)
            else:
                assert mine == other


RULES = {name: rule for name, rule in vars(torch.optim).items() if inspect.isclass(rule) and rule is not Optimizer}
ORDINARY = sorted(set(RULES) - {"LBFGS", "SparseAdam"})  # those need a closure, or sparse gradients


def optimizer_settings(flags: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Rule, way, flag and settings: each rule as a loop, foreach and fused, under each set of flags that it takes."""
    for name, way, flag in product(ORDINARY, ("for loop", "foreach", "fused"), flags):
        accepted = inspect.signature(RULES[name]).parameters
        settings = dict(flags[flag])
        if way != "for loop":
            settings[way] = True
        elif "foreach" in accepted:
            settings["foreach"] = False
        if set(settings) <= set(accepted):
            yield name, way, flag, settings
