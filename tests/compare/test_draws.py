"""Numbers from a seed, and nobody outside notices."""

import random

import numpy as np
import torch

from truestep.compare._draws import draws_from


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002


def test_equal_seeds_draw_equal_numbers_and_others_others() -> None:
    found = []
    for seed in (3, 3, 4, -1, 2**33):  # numpy takes neither of the last two
        with draws_from(seed):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(len({row[source] for row in found}) == 4 for source in range(3))


def test_afterwards_numbers_go_on_as_if_none_had_been_drawn() -> None:
    with draws_from(0):
        expected = drawn()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        with draws_from(7):
            drawn()
        assert drawn() == expected
