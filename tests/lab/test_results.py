"""Results: they survive the file, say what changed, and the committed ones belong to the claims."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from truestep.lab import CLAIMS, Claim, Interval, Judgement, Measurement, Verdict, t_interval
from truestep.lab._figure import panels
from truestep.lab._interval import LEVEL
from truestep.lab._results import COMMITTED, Result, changes, figure_path, from_json, judged, read, to_json, write
from truestep.lab._runner import Measured, Trial

LARGEST_FIGURE = 150_000  # bytes


def run(seed: int, device: str) -> Measurement:
    return {"ratio": 2.0 + seed, "curve": [float(k) for k in range(1000)]}


def judge(measurements: Sequence[Measurement]) -> Judgement:
    ratio = t_interval([float(m["ratio"]) for m in measurements if not isinstance(m["ratio"], list)])
    return Judgement(Verdict.PARTLY, f"ratio {ratio}, ‖w‖", {"ratio": ratio}, {"worst": 3.0})


def plot(measurements: Sequence[Measurement]):
    figure, (axis,) = panels()
    axis.plot(measurements[0]["curve"])
    return figure


CLAIM = Claim("toy", "000: nowhere", "α̂ “quoted”", "SUPPORTED if ...", run, judge, plot, seeds=2)


@pytest.fixture
def result() -> Result:
    return judged(CLAIM, [(Trial(CLAIM, seed), Measured(run(seed, "cpu"), 0.123, 1)) for seed in range(2)])


def test_a_result_survives_json(result: Result) -> None:
    assert from_json(to_json(result)) == result


def test_json_keeps_a_curve_on_one_line(result: Result) -> None:
    assert len(to_json(result).splitlines()) < 60


def test_a_result_holds_what_is_needed_to_get_it_again(result: Result) -> None:
    assert result.command == "truestep lab run toy --seeds 2 --device cpu"
    assert set(result.versions) == {"truestep", "torch", "python"}
    assert (result.seeds, result.seconds, result.threads) == ([0, 1], [0.12, 0.12], 1)
    assert result.intervals["ratio"].mean == 2.5


def test_long_curves_keep_their_ends_and_200_points(result: Result) -> None:
    curve = result.measurements[0]["curve"]
    assert isinstance(curve, list)
    assert (len(curve), curve[0], curve[-1]) == (200, 0.0, 999.0)
    assert curve == sorted(curve)


def test_a_written_result_is_read_back_with_its_figure(result: Result, tmp_path: Path) -> None:
    write(result, CLAIM, tmp_path / "new")
    assert read(tmp_path / "new", "toy") == result
    assert figure_path(tmp_path / "new", "toy").read_text().startswith("<?xml")


def test_no_result_is_none_and_a_wrong_file_is_named(tmp_path: Path) -> None:
    assert read(tmp_path, "toy") is None
    (tmp_path / "toy.json").write_text('{"claim": "toy"}')
    with pytest.raises(ValueError, match=r"toy\.json holds no result of the lab"):
        read(tmp_path, "toy")


def test_a_result_that_reproduces_has_no_changes(result: Result) -> None:
    slower = replace(result, seconds=[9.0, 9.0], versions={"torch": "9"}, numbers={"worst": 1e9})
    assert changes(result, slower) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"verdict": Verdict.REFUTED, "reason": "no."}, "toy: was PARTLY, is REFUTED. no."),
        ({"threshold": "SUPPORTED"}, "toy: the threshold was rewritten."),
        ({"sentence": "β"}, "toy: the sentence was rewritten."),
        (
            {"intervals": {"ratio": Interval(20.0, 19.0, 21.0)}},
            "toy: ratio was 2.5 [-3.85, 8.85], is 20 [19, 21]; the intervals do not meet.",
        ),
        ({"intervals": {}}, "toy: ratio is no longer measured."),
    ],
)
def test_each_change_is_one_sentence(result: Result, changed: dict[str, object], sentence: str) -> None:
    assert changes(result, replace(result, **changed)) == [sentence]


def test_what_is_new_is_said_to_be_new(result: Result) -> None:
    assert changes(None, result) == ["toy: judged for the first time, PARTLY."]
    assert changes(replace(result, intervals={}), result) == [
        "toy: ratio is measured for the first time, 2.5 [-3.85, 8.85]."
    ]


def test_every_committed_file_belongs_to_a_claim() -> None:
    files = {path.name for path in COMMITTED.iterdir()}
    assert files == {f"{claim.name}{suffix}" for claim in CLAIMS for suffix in (".json", ".svg")}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_committed_result_is_the_claims_own_judgement(claim: Claim) -> None:
    result = read(COMMITTED, claim.name)
    assert result is not None
    assert (result.claim, result.source, result.sentence, result.threshold) == (
        claim.name,
        claim.source,
        claim.sentence,
        claim.threshold,
    )
    assert list(result.seeds) == list(range(len(result.seeds)))
    assert len(result.measurements) == len(result.seconds) == len(result.seeds) >= claim.seeds
    again = claim.judge(result.measurements)
    assert (again.verdict, again.reason) == (result.verdict, result.reason)
    assert figure_path(COMMITTED, claim.name).stat().st_size < LARGEST_FIGURE


def test_intervals_are_at_the_level_that_the_words_say() -> None:
    assert LEVEL == 0.95
