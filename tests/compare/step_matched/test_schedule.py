"""Numbers, lists and callables as lengths, counted on the host or on the device."""

from typing import Any

import numpy as np
import pytest
import torch

from truestep.compare.step_matched._schedule import check_length, check_shape, length_at


@pytest.mark.parametrize("length", [0.25, [1.0, 0.5, 0.25], lambda step: 1 / 2**step, torch.tensor(0.25)])
@pytest.mark.parametrize("step", [2, torch.tensor(2)])
def test_the_third_step_s_length(length: Any, step: Any) -> None:
    found = length_at(length, step, "l2")
    assert float(found) == 0.25
    assert not isinstance(found, torch.Tensor) or found.dtype == torch.float64


def test_a_count_on_the_device_gives_the_host_s_length_to_the_last_bit() -> None:
    found = [length_at(lambda step: 0.1 / (2 + step), step, "l2") for step in (1, torch.tensor(1))]
    assert float(found[0]) == float(found[1])


def test_a_length_for_each_block() -> None:
    table = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    for step in (1, torch.tensor(1)):
        assert length_at(table, step, "l2").tolist() == [3.0, 4.0]


def test_the_end_of_a_list_is_an_error_and_on_the_device_no_length() -> None:
    with pytest.raises(ValueError, match="found 1 and a step more"):
        length_at([0.1], 1, "l2")
    assert length_at([0.1], torch.tensor(1), "l2").isnan()


@pytest.mark.parametrize("length", [-0.1, float("nan"), float("inf"), "1"])
def test_what_is_no_length_is_refused(length: object) -> None:
    with pytest.raises(ValueError, match="`length` must be a number from 0 to below inf for norm='rms'"):
        check_length(length, "rms")


def test_a_number_of_numpy_is_one() -> None:
    assert length_at(lambda step: np.float32(0.5 ** (step + 1)), 1, "l2") == 0.25


def test_a_tensor_has_one_length_or_one_for_each_block() -> None:
    for shape in ((), (1,), (3,)):
        check_shape(torch.ones(shape), 3)
    for shape in ((2,), (300,), (3, 1)):
        with pytest.raises(ValueError, match=r"must have one value, or one for each of the 3 blocks .* give a list"):
            check_shape(torch.ones(shape), 3)


def test_an_angle_is_below_half_a_turn() -> None:
    check_length(4.0, "l2")
    with pytest.raises(ValueError, match=r"below 3\.14159"):
        length_at(lambda _: 4.0, 0, "angular")
