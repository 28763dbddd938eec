"""The per-sample form: each verdict from typed-in accuracies, what it is blind to, where it breaks."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import digits_problem, flat_gradient, per_sample, plain_mlp, unit
from truestep.lab.claims import per_sample_unit_loss
from truestep.lab.claims.per_sample_unit_loss import (
    LRS,
    MAGNITUDE,
    PROBLEMS,
    RULES,
    accuracies,
    judge,
    plot,
    pose,
    weighted_entropy,
)


def numbers(**changed: float) -> list[Measurement]:
    usual: Measurement = {}
    for problem in PROBLEMS:
        for rule in RULES:
            usual |= {f"{problem}_{rule}": 0.9, f"{problem}_{rule}_broken": 0.0}
            usual |= {f"{problem}_{rule}_at": [0.9] * len(LRS)}
    return [usual | changed, usual | {name: value * 1.001 for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"magnitudes_per_sample": 0.96}, Verdict.SUPPORTED),
        ({"magnitudes_per_sample": 0.96, "plain_per_sample": 0.8}, Verdict.PARTLY),
        ({"magnitudes_per_sample": 0.96, "plain_per_sample_broken": 0.5}, Verdict.PARTLY),
        ({"magnitudes_per_sample": 0.96, "plain_raw_broken": 0.5}, Verdict.SUPPORTED),  # raw's own affair
        ({}, Verdict.REFUTED),
        ({"magnitudes_per_sample": 0.8}, Verdict.REFUTED),
        ({"magnitudes_per_sample": 0.91}, Verdict.INCONCLUSIVE),
    ],
)
def test_help_where_magnitudes_differ_and_no_harm_elsewhere(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(numbers(**changed)).verdict is verdict


def test_the_factors_span_the_decades_and_each_class_has_its_own() -> None:
    problem, plain = pose("magnitudes", 0, "cpu"), pose("plain", 0, "cpu")
    labels, factors = problem.y.unbind(1)
    assert torch.equal(labels.long(), plain.y)
    assert len(factors.unique()) == 10
    torch.testing.assert_close(factors.max() / factors.min(), torch.tensor(10 ** (2 * MAGNITUDE)))
    assert len(torch.stack([labels, factors]).unique(dim=1).T) == 10


def test_the_per_sample_form_does_not_hear_the_factors_and_the_batchs_does() -> None:
    plain, scaled = pose("plain", 0, "cpu"), pose("magnitudes", 0, "cpu")
    model = plain_mlp((8,), torch.Generator().manual_seed(0), "cpu", torch.float64)
    x = plain.x[:32].double()
    found = {}
    for rule in (per_sample, unit):
        for problem in (plain, scaled):
            model.zero_grad()
            rule(problem.loss(model(x), problem.y[:32])).backward()
            found[rule, problem is plain] = flat_gradient(model)
    torch.testing.assert_close(found[per_sample, True], found[per_sample, False], rtol=1e-6, atol=1e-9)
    assert (found[unit, True] - found[unit, False]).norm() > 0.1 * found[unit, True].norm()


def test_a_solved_sample_gives_no_number_without_a_floor_and_none_with_it() -> None:
    output = torch.tensor([[200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    for floor, expected in ((0.0, False), (0.1, True)):
        output.grad = None
        per_sample(weighted_entropy(output, torch.tensor([[0.0, 1.0], [0.0, 1.0]])), floor).backward()
        assert bool(output.grad.isfinite().all()) is expected


def test_an_lr_that_breaks_the_weights_is_counted_and_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_sample_unit_loss, "LRS", (0.1, 1e30))
    problem, _ = digits_problem("cpu")
    found, broken = accuracies(problem, RULES["raw"], 0, "cpu", 2)
    assert broken == [0.0, 1.0]
    assert found[1] == 0.1
    assert found[0] > 0.2


def test_the_figure_names_each_rule_once() -> None:
    *_, axis = plot(numbers()).axes
    assert len(axis.get_legend().get_texts()) == len(RULES)
