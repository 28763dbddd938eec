"""Batches and splits: every sample in its place, and nobody can change it."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from truestep.compare.problems import minibatches, squared_loss, supervised


def numbered(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(count, dtype=torch.float32)[:, None]
    return x, 2 * x


def with_a_constant() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.stack([torch.randn(100, generator=torch.Generator().manual_seed(0)) * 7 + 3, torch.full((100,), 4.0)], 1)
    return x, x[:, :1]


def uneven() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(3), torch.zeros(4)


def build(seed: int) -> nn.Module:
    return nn.Linear(1, 1)


FIFTY = partial(numbered, 50)


def numbers(load=FIFTY, **settings):
    return supervised("numbers", load, build, squared_loss, target=1, max_steps=9, **{"batch_size": 8, **settings})


def test_an_epoch_has_every_sample_at_most_once_and_the_next_another_order() -> None:
    batches = minibatches((torch.arange(10),), 4, seed=0)
    epochs = [torch.cat([*next(batches), *next(batches)]).tolist() for _ in range(20)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 20
    assert set().union(*epochs) == set(range(10))  # who is left out changes


def test_inputs_keep_their_targets() -> None:
    x, y = next(numbers().batches(0))
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_that_cannot_be_filled_is_refused_at_once(size: int) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be from 1 to 10"):
        minibatches((torch.arange(10),), size, seed=0)


def test_training_and_held_out_data_are_all_data_and_have_nothing_in_common() -> None:
    problem = numbers()
    batches = problem.batches(0)
    train = {x for _ in range(20) for x in next(batches)[0].flatten().tolist()}
    held_out = set(problem.held_out()[0].flatten().tolist())
    assert (len(train), len(held_out)) == (40, 10)
    assert train | held_out == set(range(50))


def test_the_probe_is_training_data() -> None:
    problem = numbers()
    assert set(problem.probe()[0].flatten().tolist()).isdisjoint(problem.held_out()[0].flatten().tolist())


def test_without_held_out_data_all_are_trained_on() -> None:
    problem = numbers(held_out=0)
    assert problem.held_out is None
    assert sorted(problem.probe()[0].flatten().tolist()) == list(range(50))


def test_features_are_standardized_over_the_training_part_and_a_constant_one_is_zero() -> None:
    x = numbers(with_a_constant, standardize=True).probe()[0].double()
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 0.0]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["probe", "held_out"])
def test_what_was_handed_out_can_be_overwritten_without_harm(part: str) -> None:
    problem = numbers()
    before = getattr(problem, part)()[0].clone()
    getattr(problem, part)()[0].zero_()
    next(problem.batches(0))[0].zero_()
    assert torch.equal(getattr(problem, part)()[0], before)


def test_data_are_loaded_once_in_a_process_and_never_travel() -> None:
    loads: list[int] = []

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        loads.append(1)
        return numbered(50)

    problem = numbers(load)
    assert loads == []
    _ = problem.probe(), problem.held_out(), next(problem.batches(0)), next(problem.batches(1))
    assert loads == [1]
    large = numbers(partial(numbered, 50_000))
    large.probe()
    assert len(pickle.dumps(large)) < 2000


LOADS: list[object] = []


def counted(path: Path, sizes: tuple[int, ...] | list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    LOADS.append(path)
    return numbered(sizes[0])


def test_of_a_problem_that_comes_pickled_with_every_trial_the_data_are_loaded_once_until_the_file_changes(
    tmp_path: Path,
) -> None:
    LOADS.clear()
    for place in (tmp_path / "x", tmp_path):
        (tmp_path / "x").write_text("one")
        sent = pickle.dumps(numbers(partial(counted, place, sizes=(50,))))
        for _ in range(3):
            pickle.loads(sent).probe()
        (tmp_path / "x").write_text("another")
        pickle.loads(sent).probe()
    assert [tmp_path / "x"] * 2 + [tmp_path] * 2 == LOADS
    assert len(numbers(partial(counted, "", [50])).probe()[0]) == 40  # a list has no hash


@pytest.mark.parametrize("share", [-0.1, 1, 10])
def test_what_is_held_out_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="`held_out` must be a share of the data, from 0 to below 1"):
        numbers(held_out=share)


def test_tensors_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`load` must give tensors of one length, found \[3, 4\]"):
        numbers(uneven).probe()
