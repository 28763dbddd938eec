"""A stack's batches are each order's own."""

from functools import partial
from itertools import islice

import pytest
import torch
from tests.compare.training.nets import data, mlp, problem
from torch.utils._pytree import tree_map

from truestep.compare.problems import Problem, cross_entropy_loss, supervised
from truestep.compare.training._batches import stacked_batches
from truestep.compare.training._stackable import NotStackableError


def from_data(batch_size: int = 7) -> Problem:
    return supervised("data", data, mlp, cross_entropy_loss, target=0.5, max_steps=9, batch_size=batch_size)


def nested(seed: int):
    for x, y in problem().batches(seed):
        yield {"x": x, "rest": [y, (y + 1,)]}


@pytest.mark.parametrize("own", [problem(), from_data(), from_data(32), problem(batches=nested)])
def test_rows_are_the_batches_of_the_orders_over_epochs(own: Problem) -> None:
    orders = [3, 0, 11]
    sources = [own.batches(order) for order in orders]
    for batch in islice(stacked_batches(own, orders), 12):
        for row, source in enumerate(sources):
            same = tree_map(torch.equal, tree_map(lambda x, row=row: x[row], batch), next(source))
            assert all(torch.utils._pytree.tree_leaves(same))


def test_a_batch_size_that_cannot_be_filled_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="`batch_size` must be from 1 to 32"):
        next(stacked_batches(from_data(33), [0]))


def mixed(seed: int):
    return iter([(torch.zeros(2),) if seed else [torch.zeros(2)]])


def numbers(seed: int):
    return iter([(torch.zeros(2), 0.5)])


def halves(seed: int):
    return iter([(torch.zeros(2, dtype=torch.float16 if seed else torch.float32),)])


@pytest.mark.parametrize(
    ("batches", "reason"), [(mixed, "made of"), (numbers, "tensors alone, but has float"), (halves, "differ")]
)
def test_batches_that_are_not_alike_are_refused(batches, reason: str) -> None:
    with pytest.raises(NotStackableError, match=reason):
        next(stacked_batches(problem(batches=partial(batches)), [0, 1]))
