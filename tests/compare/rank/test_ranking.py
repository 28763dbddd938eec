from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from truestep.compare.problems import noisy_quadratic
from truestep.compare.rank import Protocol, Ranking, judge_protocol, ranking
from truestep.compare.rank._ranking import judge_ranking
from truestep.compare.sweep import Sweep
from truestep.compare.training import Matched, Replica, train

OPTIMIZERS = {"sgd": partial(SGD, lr=0.01), "adam": partial(Adam, lr=0.01)}


def protocol(name: str, end: dict[str, float], half: dict[str, float]) -> Protocol:
    grid = dict.fromkeys(end, (1.0,))
    end, half = ({key: torch.full((1, 3), x, dtype=torch.float64) for key, x in each.items()} for each in (end, half))
    return judge_protocol(name, "length" if name.startswith("matched") else "lr", grid, end, half, ceiling=1e3)


def judged() -> Ranking:
    up, down = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}
    protocols = [protocol("tuned lr", up, up), protocol("matched l2 global", down, up), protocol("unit loss", up, down)]
    return judge_ranking("toy", protocols, 10, 1e3)


@pytest.fixture(scope="module")
def small() -> Ranking:
    return ranking(noisy_quadratic(), OPTIMIZERS, seeds=2, steps=8, grid=(0.1, 10), norms=[("linf", "tensor")])


def test_tau_between_protocols_and_from_half_to_end_worked_out_by_hand() -> None:
    result = judged()
    assert result.tau.tolist() == [[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]
    assert result.half_tau == {"tuned lr": 1.0, "matched l2 global": -1.0, "unit loss": -1.0}
    assert len(result.warnings) == 2  # two orders changed before the end


def test_every_reason_for_doubt_reaches_the_warnings_the_gravest_first() -> None:
    grid = {"a": (0.1, 1.0), "b": (1.0,)}

    def matched(name: str, a: list[list[float]], b: list[list[float]]) -> Protocol:
        end = {"a": torch.tensor(a).double(), "b": torch.tensor(b).double()}
        half = {"a": end["b"].expand(2, -1), "b": end["a"][:1]}
        return judge_protocol(name, "length", grid, end, half, ceiling=1e3, budgets=(1, 30))

    edge = matched("matched l2 global", [[1.0, 1.1, 1.0], [900.0, 800.0, 900.0]], [[9.0, 8.0, 9.0]])
    wild = matched("matched linf unit", [[9.0, 1.0, 9.0], [9.5, 9.0, 9.0]], [[0.001, 0.001, torch.inf]])
    warnings = judge_ranking("toy", [edge, wild], 10, 1e3).warnings
    told = ["the grid's edge for a (0.1)", "33% of the runs of b diverged", "the grid's edge for a (0.1)"]
    told += ["depends on the norm", "depends on the number of values tried", "at half of training"]
    told += ["at half of training", "3 seeds do not settle b / a"]
    assert len(warnings) == len(told)
    for sentence, part in zip(warnings, told, strict=True):
        assert part in sentence


def test_the_sentence_names_every_winner_and_how_far_the_orders_agree() -> None:
    sentence = "toy: a leads under tuned lr, unit loss; c leads under matched l2 global; "
    assert judged().sentence == sentence + "Kendall's tau between the orders from -1.00 to 1.00"


def test_one_winner_is_told_in_one_word() -> None:
    order = {"a": 1.0, "b": 2.0}
    result = judge_ranking("toy", [protocol(name, order, order) for name in ("tuned lr", "unit loss")], 10, 1e3)
    assert result.sentence.startswith("toy: a leads under every protocol; ")
    assert str(result).startswith(result.sentence)


def test_there_is_a_protocol_for_each_way_to_be_fair(small: Ranking) -> None:
    names = ["default lr", "tuned lr", "matched linf tensor", "unit loss"]
    assert [each.name for each in small.protocols] == names
    assert [each.knob for each in small.protocols] == ["lr", "lr", "length", "lr"]
    assert small.tau.shape == (4, 4)
    assert list(small.half_tau) == names
    assert (small.names, small.seeds, small.steps) == (("sgd", "adam"), 2, 8)


def test_losses_are_those_of_training_at_each_value(small: Ranking) -> None:
    default, tuned, matched, unit = small.protocols
    length = matched.grid["adam"][1]
    for each, settings in (
        (tuned, {}),
        (matched, {"control": Matched(length, "linf", "tensor")}),
        (unit, {"unit_loss": True}),
    ):
        replicas = [Replica(seed, seed, x) for x in (0.1, 1.0, 10.0) for seed in (0, 1)]
        curves = train(
            noisy_quadratic(), OPTIMIZERS["adam"], replicas, steps=8, points=2, schedule="linear", **settings
        )
        assert torch.equal(each.half["adam"], curves.losses[:, 0].view(3, 2))
        assert torch.equal(each.losses["adam"], curves.losses[:, 1].view(3, 2))
    assert torch.equal(default.losses["adam"][0], tuned.losses["adam"][1])


def test_a_given_grid_is_of_multiples_and_has_one_among_them(small: Ranking) -> None:
    assert small.protocols[0].grid == {"sgd": (0.01,), "adam": (0.01,)}
    assert small.protocols[1].grid["sgd"] == (0.001, 0.01, 0.1)
    first = small.protocols[2].grid["sgd"]
    assert first == pytest.approx([0.1 * first[1], first[1], 10 * first[1]])


def test_budgets_are_told_where_values_are_tuned(small: Ranking) -> None:
    assert small.protocols[0].budget["sgd"] == {}
    for each in small.protocols[1:]:
        told = [each.budget["sgd"][k] for k in (1, 2, 3, 5, 10, 30)]
        assert told == sorted(told, reverse=True)
        assert told[-1] >= each.loss["sgd"].mean * (1 - 1e-12)


def test_the_default_lr_is_not_trained_twice_and_a_kept_sweep_trains_nothing_again() -> None:
    with Sweep(workers=0, progress=False) as sweep:
        settings = {"seeds": 2, "steps": 4, "grid": (1.0,), "norms": [("l2", "global")], "sweep": sweep}
        first, second = (ranking(noisy_quadratic(), OPTIMIZERS, **settings) for _ in range(2))
        assert len(sweep.results()) == 2 * 3
    assert str(first) == str(second)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizers": {"sgd": SGD}}, "`optimizers` must be at least two"),
        ({"seeds": 1}, "`seeds` must be at least 2"),
        ({"steps": 1}, "`steps` must be at least 2"),
    ],
)
def test_too_few_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking(noisy_quadratic(), **{"optimizers": OPTIMIZERS, **changed})
