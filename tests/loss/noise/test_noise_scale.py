"""The hooks read what the gradients say, however a window is cut and summed, and a run does not notice them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.gloo import seen_by_ranks
from tests.loss.noise import noise_ranks as script
from torch import Tensor, nn

from truestep.loss._tally import Tally
from truestep.loss.noise._noise_scale import NoiseEstimate, NoiseScale

SIZES = (3, 5, 2)
WINDOW = 10


def parts(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(sum(SIZES), 4, dtype=torch.float64, generator=generator).split(SIZES))


def by_hand(model: nn.Module, parts: list[Tensor], factors: list[float]) -> Tensor:
    """Noise and signal, from the gradients themselves."""
    grads = [torch.autograd.grad(model(x).square().mean(), list(model.parameters())) for x in parts]
    g = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in grads])
    f, n = torch.tensor(factors, dtype=torch.float64), torch.tensor([len(x) for x in parts], dtype=torch.float64)
    p = f / f.sum()
    mean = p @ g
    noise = p @ (g - mean).square().sum(1) / (p / n - p * p / n).sum()
    return torch.stack([noise, mean.square().sum() - noise * (p * p / n).sum()])


LOOPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[int], float]]] = {
    "mean": (lambda losses: losses.mean(), lambda n: 1.0),
    "mean divided": (lambda losses: losses.mean() / len(SIZES), lambda n: 1 / len(SIZES)),
    "sum": (lambda losses: losses.sum(), lambda n: n),
    "share of the union": (lambda losses: losses.sum() / WINDOW, lambda n: n / WINDOW),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_window_keeps_what_its_gradients_say_however_the_loss_is_reduced(loop: str) -> None:
    reduce, factor = LOOPS[loop]
    model = script.build()
    noise = NoiseScale(model.parameters())
    for x in parts():
        reduce(model(x).square()).backward()
        noise.micro(len(x), factor=factor(len(x)))
    noise.window()
    (row,) = noise.state_dict()["windows"]
    torch.testing.assert_close(row, by_hand(model, parts(), [factor(n) for n in SIZES]), rtol=1e-11, atol=0)


@pytest.mark.parametrize("count", ["number", "tensor"])
def test_a_tallys_window_is_read_before_it_finishes_with_the_items_as_factor(count: str) -> None:
    model = script.build()
    noise, tally = NoiseScale(model.parameters()), Tally(per="item")
    for x in parts():
        tally.backward(model(x).square())
        n = len(x) if count == "number" else torch.tensor(len(x))
        noise.micro(n, factor=n)
    noise.window()
    tally.finish(model.parameters())
    (row,) = noise.state_dict()["windows"]
    expected = by_hand(model, parts(), list(map(float, SIZES)))
    torch.testing.assert_close(row[0] / row[1], expected[0] / expected[1], rtol=1e-11, atol=0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two gloo processes saw."""
    return seen_by_ranks("tests.loss.noise.noise_ranks", 2, tmp_path_factory.mktemp("noise_ranks"))


def test_sharded_parameters_are_refused(ranks: list[Any]) -> None:
    for found in ranks:
        assert "`parameters` are sharded" in found["refused"]


def test_two_ranks_of_uneven_micro_batches_keep_the_window_of_one_process(ranks: list[Any]) -> None:
    windows = [script.inputs(window) for window in range(script.WINDOWS)]
    alone = script.measure(script.build(), [first + second for first, second in windows])
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found["ddp"], alone.state_dict()["windows"], rtol=1e-11, atol=0)
        own = script.measure(script.build(), [window[rank] for window in windows]).state_dict()["windows"]
        torch.testing.assert_close(found["alone"], own, rtol=0, atol=0)
        assert found["printed"] == str(alone.estimate())
    without = script.measure(script.build(), [windows[0][0] + windows[0][1], windows[1][1]]).state_dict()["windows"]
    for found in ranks:
        torch.testing.assert_close(found["idle"], without, rtol=1e-11, atol=0)


def test_the_run_is_not_disturbed() -> None:
    ends = []
    for watched in (False, True):
        model = script.build()
        optimizer = torch.optim.Adam(model.parameters())
        noise = NoiseScale(model.parameters()) if watched else None
        for seed in range(5):
            optimizer.zero_grad()
            for x in parts(seed):
                model(x).square().mean().backward()
                if noise:
                    noise.micro(len(x))
            if noise:
                noise.window()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


def test_nothing_waits_for_the_device_until_the_estimate_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise AssertionError("a host read")

    model = script.build()
    noise = NoiseScale(model.parameters())
    with monkeypatch.context() as patch:
        for name in ("item", "__bool__", "__float__", "__int__", "tolist", "cpu"):
            patch.setattr(Tensor, name, waits)
        run_windows(noise, model, 9)
    assert noise.estimate().windows == 9


def run_windows(noise: NoiseScale, model: nn.Module, count: int, first: int = 0) -> None:
    for seed in range(first, first + count):
        model.zero_grad()
        for x in parts(seed):
            model(x).square().sum().backward()
            noise.micro(len(x), factor=len(x))
        noise.window()


def kept(last: int, count: int, first: int = 0) -> NoiseScale:
    """What is kept of `count` windows."""
    model = script.build()
    noise = NoiseScale(model.parameters(), last=last)
    run_windows(noise, model, count, first)
    return noise


def test_an_estimate_looks_back_on_the_last_windows_alone() -> None:
    assert kept(last=8, count=21).estimate() == kept(last=30, count=8, first=13).estimate()
    assert torch.equal(
        kept(last=8, count=21).state_dict()["windows"], kept(last=30, count=21).state_dict()["windows"][13:]
    )


def test_half_precision_gradients_neither_overflow_nor_vanish_in_their_norms() -> None:
    rows = {}
    for dtype in (torch.float64, torch.float16):
        weight = nn.Parameter(torch.zeros(3000, dtype=dtype))
        noise = NoiseScale([weight])
        for size in (1e-4, 3e3):
            weight.grad = None
            for x in parts():
                (weight * (x[:, :1].to(torch.float16).to(dtype) * size)).sum(1).mean().backward()
                noise.micro(len(x))
            noise.window()
        rows[dtype] = noise.state_dict()["windows"]
    assert torch.isfinite(rows[torch.float16]).all()
    torch.testing.assert_close(rows[torch.float16], rows[torch.float64], rtol=0.05, atol=0)


def test_a_window_that_overflowed_is_left_out() -> None:
    model = script.build()
    noise = NoiseScale(model.parameters())
    run_windows(noise, model, 9)
    before = noise.estimate()
    for x in parts():
        (model(x).square().sum() * math.inf).backward()
        noise.micro(len(x), factor=len(x))
    noise.window()
    assert noise.estimate() == before


def test_windows_of_one_micro_batch_are_left_out_and_the_reason_is_told() -> None:
    model = script.build()
    noise = NoiseScale(model.parameters())
    for seed in range(20):
        model.zero_grad()
        model(parts(seed)[0]).square().mean().backward()
        noise.micro(3)
        noise.window()
    found = noise.estimate()
    assert (found.resolved, found.windows) == (False, 0)
    assert str(found) == (
        "noise scale not resolved (0 windows: at least 8 are needed; each needs two micro-batches or ranks, "
        "and finite gradients)"
    )


def test_a_gradient_in_two_parts_warns_and_leaves_the_window_out() -> None:
    model = script.build()
    noise = NoiseScale(model.parameters())
    run_windows(noise, model, 8)
    model(parts()[0]).square().sum().backward()
    with pytest.warns(RuntimeWarning, match=r"two gradients before `NoiseScale.micro`"):
        model(parts()[1]).square().sum().backward()
    noise.micro(8, factor=8)
    model(parts()[2]).square().sum().backward()
    noise.micro(2, factor=2)
    noise.window()
    assert noise.state_dict()["windows"].isnan().any(1).tolist() == [False] * 8 + [True]


def test_a_grad_that_was_scaled_before_the_window_is_found_out() -> None:
    model = script.build()
    noise = NoiseScale(model.parameters())
    for seed in range(8):
        model.zero_grad()
        for x in parts(seed):
            model(x).square().mean().backward()
            noise.micro(len(x))
        for p in model.parameters():
            p.grad *= 10
        noise.window()
    assert "`.grad` is not the sum" in str(noise.estimate())


def test_sparse_gradients_count_as_dense_ones() -> None:
    rows = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.EmbeddingBag(6, 3, sparse=sparse, mode="sum").double()
        noise = NoiseScale(model.parameters())
        for words in torch.tensor([[[0, 1, 1], [5, 1, 0]], [[2, 2, 2], [3, 1, 4]]]):
            model(words).square().mean().backward()
            noise.micro(2)
        noise.window()
        rows.append(noise.state_dict()["windows"])
    torch.testing.assert_close(*rows, rtol=1e-12, atol=0)
    assert rows[0].isfinite().all()


def test_parameters_used_twice_frozen_or_unused_count_once_or_not_at_all() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight, self.unused = nn.Parameter(torch.randn(4, 4).double()), nn.Parameter(torch.zeros(2))
            self.frozen = nn.Parameter(torch.ones(4).double(), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.weight + self.frozen) @ self.weight

    model = Tied()
    noise = NoiseScale(model.parameters())
    for x in parts():
        model(x).square().mean().backward()
        noise.micro(len(x))
    noise.window()
    used = [model.weight]
    model.parameters = lambda recurse=True: iter(used)  # type: ignore[method-assign]
    (row,) = noise.state_dict()["windows"]
    torch.testing.assert_close(row, by_hand(model, parts(), [1.0] * 3), rtol=1e-11, atol=0)


def test_a_saved_measurement_goes_on_where_it_was() -> None:
    model = script.build()
    resumed = NoiseScale(model.parameters(), last=10)
    resumed.load_state_dict(kept(last=10, count=12).state_dict())
    run_windows(resumed, model, 5, first=12)
    assert torch.equal(resumed.state_dict()["windows"], kept(last=10, count=17).state_dict()["windows"])
    assert resumed.estimate() == kept(last=10, count=17).estimate()


def test_a_shorter_memory_keeps_the_newest_windows() -> None:
    long, model = kept(last=20, count=12).state_dict()["windows"], script.build()
    short = NoiseScale(model.parameters(), last=8)
    short.load_state_dict({"windows": long})
    assert torch.equal(short.state_dict()["windows"], long[4:])
    run_windows(short, model, 1, first=12)
    assert torch.equal(short.state_dict()["windows"][:7], long[5:])


def test_closed_it_hears_nothing_more_and_keeps_its_estimate() -> None:
    model = script.build()
    noise = NoiseScale(model.parameters())
    run_windows(noise, model, 8)
    before = noise.estimate()
    noise.close()
    model(parts()[0]).sum().backward()
    with pytest.raises(RuntimeError, match="`micro` found no new gradient"):
        noise.micro(3)
    assert noise.estimate() == before


def test_calls_out_of_order_are_refused() -> None:
    noise = NoiseScale(script.build().parameters())
    with pytest.raises(RuntimeError, match="`micro` found no new gradient"):
        noise.micro(3)
    with pytest.raises(RuntimeError, match="`window` found no gradient"):
        noise.window()
    model = script.build()
    noise = NoiseScale(model.parameters())
    model(parts()[0]).sum().backward()
    with pytest.raises(RuntimeError, match="`window` found no gradient: call `micro` after each"):
        noise.window()
    noise.micro(3)
    model.zero_grad()
    with pytest.raises(RuntimeError, match="`window` before the step"):
        noise.window()


def test_what_cannot_be_measured_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="`parameters` must hold at least one that requires a gradient"):
        NoiseScale([torch.zeros(2)])
    with pytest.raises(ValueError, match="`last` must be at least 8 windows"):
        NoiseScale([weight], last=7)


def test_an_estimate_prints_an_interval_or_why_there_is_none_and_is_never_bare() -> None:
    assert str(NoiseEstimate(79.0, 73.0, 86.0, 200)) == "noise scale 79 [73, 86] items (200 windows)"
    reason = "|G|² not distinguishable from 0"
    assert str(NoiseEstimate(math.nan, 95.3, math.inf, 16, reason)) == (
        "noise scale not resolved, above 95.3 items (16 windows: |G|² not distinguishable from 0)"
    )
    assert str(NoiseEstimate(math.nan, 0.0, math.inf, 16, reason)).startswith("noise scale not resolved (16 windows:")
