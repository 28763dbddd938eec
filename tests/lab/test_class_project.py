"""The class project as an example: its tables, its verdict, and the race of optimizers."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.lab.claims.test_ics_conditioning import typed_in as conditioning
from tests.lab.claims.test_ics_removal import typed_in as removal
from tests.scripts import example

from truestep.lab._digits import digits


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with example("class_project") as module:
        yield module


@pytest.mark.usefixtures("unchecked")
def test_it_prints_a_row_for_each_variant(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(script, "VARIANTS", dict.fromkeys(("none", "BN")))
    script.main(["--quick"])
    printed = capsys.readouterr().out
    assert printed.count("| BN |") == 2
    assert "| 4 (4 4) |" in printed  # three steps were done
    assert "quick: nothing to judge" in printed


def test_the_verdict_is_that_of_the_two_claims(script: Any) -> None:
    found = [a | b for a, b in zip(conditioning(), removal(), strict=True)]
    sentence = script.verdict(found)
    assert sentence.endswith("Verdict: ICS Conditioning hypothesis SUPPORTED, ICS Removal hypothesis REFUTED.")


@pytest.mark.usefixtures("unchecked")
def test_the_race_has_a_row_for_each_method(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    kept = {name: script.METHODS[name] for name in ("SGD", "QuasiDiagonal", "K-FAC (curvlinops)")}
    monkeypatch.setattr(script, "METHODS", kept)
    script.main(["speed", "--quick"])
    printed = capsys.readouterr().out
    assert all(f"| {method} | " in printed for method in kept)


@pytest.mark.usefixtures("unchecked")
def test_every_method_steps_elsewhere_from_the_same_weights(script: Any) -> None:
    losses = {method: script.train(method, 0.01, 1, digits(), epochs=1).losses[0] for method in script.METHODS}
    assert len(set(losses.values())) == len(script.METHODS)
    assert max(losses.values()) < 3


@pytest.mark.usefixtures("unchecked")
def test_who_diverges_has_an_infinite_loss(script: Any) -> None:
    assert script.train("SGD", 1e4, 1, digits(), epochs=2).losses[-1] in {torch.inf, math.inf}


def test_the_ranking_is_by_the_geometric_mean_over_seeds(script: Any) -> None:
    said = script.ranking({"SGD": [0.1, 0.4], "Adam": [0.01, 0.01], "momentum 0.9": [0.1, 0.1]})
    assert said.endswith("Adam 20.0x, momentum 0.9 2.0x, SGD 1.0x.")
