"""GradNorm's toy: its tasks, its net, a training against the same by hand; and the example that runs it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.scripts import example
from torch.nn.functional import mse_loss

from truestep.lab import toy as lab_toy
from truestep.lab._toy_methods import dtp, equal, gradnorm
from truestep.lab.toy import Course, Net, batch, losses_on, make_toy, scales, train

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "gradnorm_toy.py"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_toy, "TEST", 30)


def test_the_scales_go_from_1_to_100_in_equal_factors() -> None:
    assert scales(3) == pytest.approx([1.0, 10.0, 100.0])
    ten = torch.tensor(scales(10), dtype=torch.float64)
    torch.testing.assert_close(ten.log().diff(), torch.full((9,), math.log(100) / 9, dtype=torch.float64))


def test_what_enters_the_tanh_has_variance_1_from_the_common_part_and_an_eighth_from_the_own() -> None:
    toy = make_toy([1.0, 100.0], seed=0)
    x = torch.randn(2000, 250, generator=torch.Generator().manual_seed(1))
    pre = torch.stack([x @ matrix.T for matrix in toy.maps])  # [tasks, samples, outputs]
    assert (pre[0] * pre[1]).mean().item() == pytest.approx(1.0, abs=0.02)  # the common part alone
    assert pre.var().item() == pytest.approx(1 + 0.35**2, abs=0.02)


def test_targets_differ_by_their_scale_and_their_own_part_alone() -> None:
    toy = make_toy([1.0, 100.0], seed=0)
    same = toy._replace(maps=toy.maps[:1].expand(2, -1, -1))
    _, y = batch(same, 20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(y["f1"], 100 * y["f0"])
    _, other = batch(toy, 20, torch.Generator().manual_seed(0))
    assert not torch.allclose(other["f1"], 100 * other["f0"], rtol=0.1)


def test_the_net_is_four_layers_of_100_and_w_the_weight_of_the_last() -> None:
    net = Net(("f0", "f1"), torch.Generator().manual_seed(0))
    assert [p.shape[0] for p in net.trunk.parameters() if p.dim() == 2] == [100] * 4
    assert net.last_layer is net.trunk[6].weight


def test_a_training_is_that_of_a_plain_loop_with_equal_weights() -> None:
    toy, seed, steps = make_toy([1.0, 100.0], seed=1), 3, 3
    course = train(toy, equal, lr=1e-3, steps=steps, seed=seed)
    generator = torch.Generator().manual_seed(2 * seed + 1)
    net = Net(toy.tasks, generator)
    held_out = batch(toy, 30, generator)
    start = losses_on(net, *held_out)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        x, y = batch(toy, 100, generator)
        optimizer.zero_grad()
        z = net.trunk(x)
        torch.stack([mse_loss(net.heads[task](z), y[task]) for task in toy.tasks]).sum().backward()
        optimizer.step()
    now = losses_on(net, *held_out)
    assert course.start == start
    assert course.last == pytest.approx([now[task] / start[task] for task in toy.tasks], rel=1e-6)
    assert course.steps == [1, 2, 3]


def test_a_course_keeps_weights_norms_and_ratios_of_each_look() -> None:
    toy = make_toy([1.0, 100.0], seed=1)
    course = train(toy, gradnorm(0.0), lr=1e-3, steps=2, seed=0)
    weighted = [course.weights[task][0] * course.norms[task][0] for task in toy.tasks]
    assert weighted[0] == pytest.approx(weighted[1], rel=1e-6)  # alpha 0, first update
    assert [course.ratios[task][0] for task in toy.tasks] == [1.0, 1.0]
    assert sum(course.static.values()) == pytest.approx(2.0)


def test_kpis_are_what_is_gained_of_the_loss_and_0_where_it_is_worse() -> None:
    toy, told = make_toy([1.0, 100.0], seed=1), list[dict[str, float]]()

    def build(toy: lab_toy.Toy, net: Net) -> Any:
        balancer = dtp()(toy, net)
        hear = balancer.kpi
        balancer.kpi = lambda values: (told.append(dict(values)), hear(values))[1]
        return balancer

    train(toy, build, lr=1e-3, steps=2, seed=0, kpis=True)
    assert len(told) == 2
    assert all(0 <= kpi < 0.5 for kpis in told for kpi in kpis.values())


def test_the_spread_of_a_course_is_that_of_the_logarithms_and_0_for_equal_rates() -> None:
    def ended(*last: float) -> Course:
        return Course([1], {}, {}, {f"f{i}": [x] for i, x in enumerate(last)}, {}, {}, {})

    assert ended(0.5, 0.5).spread == 0
    assert ended(math.exp(-1), math.exp(1)).spread == pytest.approx(1.0)
    assert ended(0.25, 0.75).mean == 0.5
    assert ended(math.nan, 0.5).mean == math.inf


@pytest.fixture
def script() -> Iterator[Any]:
    with example("gradnorm_toy") as module:
        yield module


def options(tmp_path: Path, *more: str) -> list[str]:
    folders = ["--work-dir", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    return ["--tasks", "2", "--steps", "3", "--seeds", "1", "--lrs", "0.001", "0.004", *folders, *more]


def test_the_example_writes_table_numbers_and_figure(script: Any, tmp_path: Path, capsys: Any) -> None:
    script.main(["toy", *options(tmp_path)])
    printed = capsys.readouterr().out
    assert all(f"| {method} | " in printed for method in script.TABLE)
    (rows,) = json.loads((tmp_path / "out" / "gradnorm_toy.json").read_text())["found"].values()
    for row in rows.values():
        assert row["mean"] == min(row["mean at each lr"].values())
        assert len(row["each"]) == 2
    assert rows[script.STATIC]["weights"] != rows["equal weights"]["weights"]
    assert (tmp_path / "out" / "gradnorm-toy.png").stat().st_size > 10_000


def test_the_example_goes_on_where_it_was(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "METHODS", {"alpha": {name: script.SWEEP[name] for name in ("alpha 0", "alpha 3")}})
    script.main(["alpha", *options(tmp_path)])
    files = sorted((tmp_path / "work").rglob("*.json"))
    assert len(files) == 2 * 2
    files[3].unlink()
    done: list[Any] = []
    work = script.work
    monkeypatch.setattr(script, "fingerprint", lambda _: files[0].parent.name)
    monkeypatch.setattr(script, "work", lambda run: (done.append(run.path), work(run)))
    script.main(["alpha", *options(tmp_path)])
    assert done == [files[3]]
