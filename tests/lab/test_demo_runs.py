"""The demo's two runs: the same in all but the weight decay."""

from pathlib import Path
from statistics import mean

import pytest
import torch

from truestep.lab import _demo_runs
from truestep.lab._demo_runs import EVALUATE, SYMMETRIES, WEIGHT_DECAY, Trained, cnn, demo, shifted
from truestep.monitor import load_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    return demo(tmp_path_factory.mktemp("demo"), steps=8)


def test_the_net_has_three_scale_invariant_convolutions_and_14_thousand_parameters() -> None:
    model = cnn()
    assert sum(p.numel() for p in model.parameters()) == 14_458
    x = torch.rand(16, 1, 8, 8)
    before = model(x)
    with torch.no_grad():
        for name, kind in SYMMETRIES.items():
            weight = model.get_parameter(name)
            assert kind == "unit"
            weight *= torch.logspace(-1, 1, len(weight)).view(-1, 1, 1, 1)  # each unit by a factor of its own
    torch.testing.assert_close(model(x), before, rtol=5e-3, atol=5e-3)  # BatchNorm's eps


def test_an_image_is_moved_by_up_to_one_pixel_and_what_leaves_it_is_gone() -> None:
    images = torch.arange(1.0, 65.0).view(1, 8, 8).repeat(400, 1, 1)
    moved = shifted(images, torch.Generator().manual_seed(0))
    seen: dict[tuple[int, int], int] = {}
    for image in moved:
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                by_hand = torch.zeros(8, 8)  # pixel (i, j) comes from (i + down, j + right)
                for i in range(8):
                    for j in range(8):
                        if 0 <= i + down < 8 and 0 <= j + right < 8:
                            by_hand[i, j] = images[0, i + down, j + right]
                if torch.equal(image, by_hand):
                    seen[down, right] = seen.get((down, right), 0) + 1
    assert sum(seen.values()) == len(images)
    assert len(seen) == 9
    assert min(seen.values()) > 20


def test_shifting_takes_its_numbers_from_the_generator_alone() -> None:
    images = torch.rand(5, 8, 8)
    before = torch.get_rng_state()
    first, again = (shifted(images, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_both_runs_begin_with_the_same_weights_and_the_same_batch(runs: list[Trained]) -> None:
    first = []
    for run in runs:
        with load_run(run.run_dir) as record:
            first.append(next(iter(record.steps)))
    without, decayed = first
    assert without.loss == decayed.loss
    assert torch.equal(without.took.ww, decayed.took.ww)
    assert torch.equal(without.took.gg, decayed.took.gg)
    assert not torch.equal(without.took.dd, decayed.took.dd)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(runs: list[Trained], tmp_path: Path) -> None:
    again, other = demo(tmp_path / "again", steps=8), demo(tmp_path / "other", steps=8, seed=1)
    losses = []
    for run in (runs[1], again[1], other[1]):
        with load_run(run.run_dir) as record:
            losses.append(record.losses()[1])
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_the_runs_differ_in_their_weight_decay_alone(runs: list[Trained]) -> None:
    assert [(run.title, run.weight_decay) for run in runs] == [("weight decay 0", 0.0), ("weight decay 0.005", 0.005)]
    settings = []
    for run in runs:
        with load_run(run.run_dir) as record:
            assert record.meta["title"] == run.title
            assert len(record.losses()[0]) == 8
            assert {b.name: b.symmetry for b in record.blocks if b.symmetry} == SYMMETRIES
            settings.append(record.optimizers[0].settings)
    assert settings[0] is not None
    assert settings[0].replace('"weight_decay": 0.0', f'"weight_decay": {WEIGHT_DECAY}') == settings[1]


def test_progress_is_told_after_every_step(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    demo(tmp_path, steps=3, progress=lambda title, done: told.append((title, done)))
    assert told == [(title, done) for title in ("weight decay 0", "weight decay 0.005") for done in (1, 2, 3)]


@pytest.mark.parametrize(("steps", "at"), [(1, [1]), (3, [3]), (8, [8]), (160, [140, 160])])
def test_accuracy_is_the_mean_over_evaluations_in_the_last_quarter(
    steps: int, at: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, seen = [0], list[int]()

    def accuracies(*_: object) -> tuple[float, float]:
        seen.append(done[0] + 1)
        return float(len(seen)), 10.0 * len(seen)

    monkeypatch.setattr(_demo_runs, "_accuracies", accuracies)
    monkeypatch.setattr(_demo_runs, "BATCH_SIZE", 2)

    def progress(_: str, count: int) -> None:
        done[0] = count % steps

    runs = demo(tmp_path, steps=steps, progress=progress)
    assert seen == at * 2
    assert EVALUATE == 20
    assert runs[0].accuracy == mean(range(1, len(at) + 1))
    assert runs[0].accuracy_batch == 10 * runs[0].accuracy
