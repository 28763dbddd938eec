"""Bad samples: each verdict from typed-in shares, the spoilt labels, the shares themselves."""

import pytest
import torch

from truestep.lab import Measurement, Verdict
from truestep.lab._training import digits_problem, flat_gradient, plain_mlp
from truestep.lab.claims import bad_samples
from truestep.lab.claims.bad_samples import BAD, RULES, WEIGHED, Spoilt, judge, plot, sample_norms, shares, spoil, track


def numbers(**changed: float) -> list[Measurement]:
    usual: Measurement = {f"{name}_outsized": 2.5 for name in ("loss", *WEIGHED)}
    usual |= {f"{name}_share": [0.2, 0.5] for name in ("loss", *WEIGHED)}
    usual |= {f"{name}_accuracy": 0.9 for name in RULES}
    return [usual | changed, usual | {name: value * 1.001 for name, value in changed.items()}]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"unit_accuracy": 0.95}, Verdict.SUPPORTED),
        ({}, Verdict.PARTLY),
        ({"unit_accuracy": 0.8}, Verdict.PARTLY),
        ({"per_sample_accuracy": 0.99}, Verdict.PARTLY),  # another remedy than the one in question
        ({"unit_accuracy": 0.91}, Verdict.INCONCLUSIVE),
        ({"raw_outsized": 1.2}, Verdict.REFUTED),
        ({"raw_outsized": 1.5}, Verdict.INCONCLUSIVE),
    ],
)
def test_the_effect_first_and_then_the_remedy(changed: dict[str, float], verdict: Verdict) -> None:
    assert judge(numbers(**changed)).verdict is verdict


def test_a_fifth_of_the_labels_is_wrong_and_known_to_be() -> None:
    clean, _ = digits_problem("cpu")
    problem, bad = spoil(0, "cpu")
    assert bad.sum() == round(BAD * len(bad))
    assert torch.equal(problem.y != clean.y, bad)
    assert not torch.equal(bad, spoil(1, "cpu").bad)


def test_a_samples_norm_is_that_of_its_own_gradient() -> None:
    problem, _ = digits_problem("cpu", torch.float64)
    few = problem._replace(x=problem.x[:3], y=problem.y[:3])
    model = plain_mlp((8,), torch.Generator().manual_seed(0), "cpu", torch.float64)
    losses, norms = sample_norms(model, few)
    for i in range(3):
        model.zero_grad()
        loss = few.loss(model(few.x[i : i + 1]), few.y[i : i + 1]).sum()
        loss.backward()
        torch.testing.assert_close(norms[i], flat_gradient(model).norm())
        torch.testing.assert_close(losses[i], loss.detach())


def test_one_batch_alone_has_the_same_share_under_raw_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, bad = spoil(0, "cpu")
    few = Spoilt(problem._replace(x=problem.x[:60], y=problem.y[:60]), bad[:60])
    model = plain_mlp((8,), torch.Generator().manual_seed(0), "cpu")
    found = shares(model, few, torch.Generator())
    assert found["unit"] == pytest.approx(found["raw"], rel=1e-12)
    assert found["per_sample"] != pytest.approx(found["raw"], rel=1e-3)
    monkeypatch.setattr(bad_samples, "BATCH", 20)
    assert shares(model, few, torch.Generator())["unit"] != pytest.approx(found["raw"], rel=1e-6)


def test_shares_are_taken_before_each_epoch_and_at_the_end() -> None:
    held = track(0, "cpu", 2)
    assert {name: len(values) for name, values in held.items()} == dict.fromkeys(("loss", *WEIGHED), 3)
    assert held["raw"][0] == pytest.approx(BAD, abs=0.03)  # nothing is learnt yet
    assert held["raw"][2] > held["raw"][0] + 0.05


def test_the_figure_says_of_what_the_shares_are() -> None:
    left, right = plot(numbers()).axes
    assert len(left.get_legend().get_texts()) == 1 + 1 + len(WEIGHED)
    assert len(right.get_xticklabels()) == len(RULES)
