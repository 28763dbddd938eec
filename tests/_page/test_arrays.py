"""Numbers as plotly reads them shortest."""

import base64
from array import array
from math import inf, isnan, nan

from truestep._page import integers, matrix, numbers


def unpacked(packed) -> list[float]:
    return list(array({"f4": "f", "i4": "i"}[packed["dtype"]], base64.b64decode(packed["bdata"])))


def test_what_is_no_finite_number_is_a_gap() -> None:
    one, *gaps = unpacked(numbers([0.5, inf, nan, 1e300]))
    assert one == 0.5
    assert all(isnan(gap) for gap in gaps)


def test_steps_are_whole_numbers() -> None:
    assert unpacked(integers([0.0, 2.6, 3])) == [0, 3, 3]


def test_rows_keep_their_shape() -> None:
    packed = matrix([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert packed["shape"] == "2, 3"
    assert unpacked(packed) == [1, 2, 3, 4, 5, 6]
    assert matrix([])["shape"] == "0, 0"
