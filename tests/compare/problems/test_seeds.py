"""Streams of random numbers: each seed its own, weights and data apart, the global ones untouched."""

import torch

from truestep.compare.problems import data_stream, seeded, weight_stream


def test_no_two_streams_of_any_seeds_begin_alike() -> None:
    streams = [stream(seed) for seed in range(20) for stream in (weight_stream, data_stream)]
    firsts = {torch.rand((), generator=stream, dtype=torch.float64).item() for stream in streams}
    assert len(firsts) == 40


def test_the_global_numbers_go_on_as_if_nothing_had_been_drawn_also_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try:
        with seeded(1):
            torch.rand(7)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.rand(3), expected)


def test_within_it_the_global_numbers_are_the_stream_of_weights() -> None:
    with seeded(3):
        drawn = torch.randn(4)
    assert torch.equal(drawn, torch.randn(4, generator=weight_stream(3)))
