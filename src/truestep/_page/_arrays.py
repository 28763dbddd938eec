"""Numbers in the form in which plotly reads them shortest: typed arrays in base64, which also know nan."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from math import isfinite, nan

Packed = dict[str, str]

_LARGEST = 3.4e38  # of float32


def numbers(values: Sequence[float | int]) -> Packed:
    """Float32 numbers; what is no finite number becomes nan, a gap in a figure."""
    return _packed("f4", array("f", [v if isfinite(v) and abs(v) < _LARGEST else nan for v in values]))


def integers(values: Sequence[float]) -> Packed:
    """Whole numbers below 2**31, such as steps, rounded."""
    return _packed("i4", array("i", [round(v) for v in values]))


def matrix(rows: Sequence[Sequence[float]]) -> Packed:
    """Rows of float32 numbers, all of one length."""
    width = len(rows[0]) if rows else 0
    return numbers([v for row in rows for v in row]) | {"shape": f"{len(rows)}, {width}"}


def _packed(dtype: str, values: array[int] | array[float]) -> Packed:
    if sys.byteorder == "big":  # a browser's typed arrays are little-endian on every machine in use
        values.byteswap()
    return {"dtype": dtype, "bdata": base64.b64encode(values.tobytes()).decode()}
