"""Claims: the four words, and what every claim in the lab must hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import truestep.lab.claims
from truestep.lab import CLAIMS, Claim, Verdict
from truestep.lab._claim import curves, scalars

MINIMUM_SEEDS = 5


def test_the_tuple_lists_every_file_of_the_folder() -> None:
    folder = Path(truestep.lab.claims.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {claim.name for claim in CLAIMS} == files
    assert len(CLAIMS) == len(files)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_says_where_it_comes_from_and_what_would_decide_it(claim: Claim) -> None:
    assert claim.run.__module__ == f"truestep.lab.claims.{claim.name}"
    assert re.match(r"\d{3}: ", claim.source)
    assert all(verdict in claim.threshold for verdict in Verdict)
    assert claim.seeds >= MINIMUM_SEEDS


def test_a_verdict_is_its_word() -> None:
    assert [str(verdict) for verdict in Verdict] == ["SUPPORTED", "PARTLY", "REFUTED", "INCONCLUSIVE"]


def test_numbers_and_curves_are_told_apart() -> None:
    measurements = [{"a": 1.0, "c": [1.0, 2.0]}, {"a": 3.0, "c": [4.0]}]
    assert scalars(measurements, "a") == [1.0, 3.0]
    assert curves(measurements, "c") == [[1.0, 2.0], [4.0]]


def test_importing_the_lab_imports_nothing_that_only_a_run_needs() -> None:
    code = "import sys, truestep.lab; print(*{name.split('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(out.split()) & {"sklearn", "matplotlib", "scipy", "typer", "rich", "jinja2"}
