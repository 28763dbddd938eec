"""The command line: what it prints, where it writes, and one line with exit code 2 for what a user did wrong."""

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from tests import forked
from tests.monitor.loops import Loop
from typer.main import get_command
from typer.testing import CliRunner, Result

from truestep import __version__, cli
from truestep.lab import demo as lab_demo
from truestep.monitor._schema import FILE

SCRIPT = Path(sys.executable).parent / "truestep"


def truestep(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, [str(word) for word in arguments])


def assert_one_line(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("truestep: ")
    assert all(word in line for word in words), line


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The record of a run of 60 steps."""
    run_dir, loop = tmp_path_factory.mktemp("good"), Loop()
    with loop.watch(run_dir) as run:
        loop.train(run, 0, 60)
    return (run_dir / FILE).read_bytes()


@pytest.fixture
def run_dir(good: bytes, tmp_path: Path) -> Path:
    made = tmp_path / "first"
    made.mkdir()
    (made / FILE).write_bytes(good)
    return made


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command's words."""
    if not hasattr(group, "commands"):
        yield path
        return
    for name, command in group.commands.items():
        yield from commands(command, *path, name)


COMMANDS = tuple(commands(get_command(cli.app)))


def test_the_version_is_the_package_s() -> None:
    result = truestep("--version")
    assert (result.exit_code, result.stdout) == (0, f"truestep {__version__}\n")


def test_the_commands_are_those_that_the_manual_page_has() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "cli.md").read_text()
    assert {("demo",), ("report",), ("lab", "run")} <= set(COMMANDS)
    assert [words for words in COMMANDS if f"`truestep {' '.join(words)}" not in page] == []


@pytest.mark.parametrize("words", [("demo",), ("report",), ("lab", "run")], ids=" ".join)
def test_the_help_of_a_command_shows_how_it_is_called(words: tuple[str, ...]) -> None:
    result = truestep(*words, "--help")
    assert result.exit_code == 0
    called = [line for line in result.stdout.splitlines() if f"truestep {' '.join(words)}" in line]
    assert [line for line in called if "Usage" not in line]


def test_without_a_command_the_help_is_shown() -> None:
    assert all(f" {words[0]} " in truestep().output for words in COMMANDS)


# --- report


def test_a_report_is_written_into_the_run_s_directory_and_its_path_printed(run_dir: Path) -> None:
    result = truestep("report", run_dir)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{run_dir / 'report.html'}\n", "")
    assert "conv.weight" in (run_dir / "report.html").read_text()


def test_a_report_takes_the_file_too_and_goes_where_it_is_asked_to(run_dir: Path, tmp_path: Path) -> None:
    result = truestep("report", run_dir / FILE, "--out", tmp_path / "page.html")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    assert not (run_dir / "report.html").exists()


def test_several_runs_are_compared_on_one_page(run_dir: Path, good: bytes, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / FILE).write_bytes(good)
    assert truestep("report", run_dir, second).exit_code == 0
    page = (run_dir / "report.html").read_text()
    assert "first" in page
    assert "second" in page


def test_a_run_that_still_goes_on_is_reported(tmp_path: Path) -> None:
    loop = Loop()
    with loop.watch(tmp_path) as run:
        loop.train(run, 0, 3)
        run.flush()
        assert truestep("report", tmp_path).exit_code == 0
        loop.train(run, 3, 5)
    assert len(run.steps) == 5


def missing(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).unlink()
    run_dir.rmdir()
    return "does not exist", "give the directory of a watched run"


def without_record(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).unlink()
    return "has no run.db", "give that of a watched run"


def with_older_records(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).rename(run_dir / "run-20260101T000000Z.db")
    return "has no run.db", "older records there are run-20260101T000000Z.db"


def empty(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).write_bytes(b"")
    return "is empty", "start the run again"


def no_database(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).write_text("step,loss\n" * 500)
    return "is damaged", "not a database"


def cut_off(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).write_bytes((run_dir / FILE).read_bytes()[:9000])
    return "is damaged", "sqlite3"


def foreign(run_dir: Path) -> tuple[str, ...]:
    (run_dir / FILE).unlink()
    with closing(sqlite3.connect(run_dir / FILE)) as connection:
        connection.execute("CREATE TABLE other (x)")
    return "is an SQLite file but no truestep record", "pass the directory of a watched run"


def of_another_version(run_dir: Path) -> tuple[str, ...]:
    with closing(sqlite3.connect(run_dir / FILE)) as connection:
        connection.execute("PRAGMA user_version = 7")
    return "has record version 7, this truestep reads versions 1 to 3", "open it with the truestep that wrote it"


def without_a_table(run_dir: Path) -> tuple[str, ...]:
    with closing(sqlite3.connect(run_dir / FILE)) as connection:
        connection.execute("DROP TABLE block_step")
    return str(run_dir), "no such table: block_step", "is it a whole record"


RUINS = (
    missing,
    without_record,
    with_older_records,
    empty,
    no_database,
    cut_off,
    foreign,
    of_another_version,
    without_a_table,
)


@pytest.mark.parametrize("ruin", RUINS, ids=lambda ruin: ruin.__name__)
def test_a_record_that_cannot_be_read_is_one_line_that_says_what_to_do(
    ruin: Callable[[Path], tuple[str, ...]], run_dir: Path
) -> None:
    words = ruin(run_dir)
    assert_one_line(truestep("report", run_dir), "first", *words)


def test_a_page_that_cannot_be_written_is_one_line(run_dir: Path) -> None:
    assert_one_line(truestep("report", run_dir, "--out", run_dir / FILE / "page.html"), FILE)


def test_one_bad_record_of_two_is_named(run_dir: Path, tmp_path: Path) -> None:
    assert_one_line(truestep("report", run_dir, tmp_path / "none"), str(tmp_path / "none"), "does not exist")


def test_bytes_overwritten_at_random_give_a_page_or_one_line_and_never_a_traceback(run_dir: Path, good: bytes) -> None:
    draw, codes = random.Random(0), set[int]()
    for _ in range(40):
        data = bytearray(good)
        for _ in range(draw.choice((1, 3, 20))):
            start, length = draw.randrange(len(data)), draw.choice((1, 8, 200, 4096))
            data[start : start + length] = draw.randbytes(len(data[start : start + length]))
        (run_dir / FILE).write_bytes(data)
        result = truestep("report", run_dir)
        codes.add(result.exit_code)
        if result.exit_code:
            assert_one_line(result, "damaged")
    assert codes == {0, 2}


def test_what_makes_no_sense_is_damage_only_where_the_file_says_so(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confused(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(cli, "write_report", confused)
    assert isinstance(truestep("report", run_dir).exception, KeyError)
    data = bytearray((run_dir / FILE).read_bytes())
    data[-4096:] = b"\xff" * 4096
    (run_dir / FILE).write_bytes(data)
    assert_one_line(truestep("report", run_dir), "is damaged")


# --- demo


def test_a_demo_that_is_stopped_says_where_its_records_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_demo, "show", stopped)
    result = truestep("demo", "--dir", tmp_path / "runs")
    assert result.exit_code == 130
    assert result.stderr == (
        f"truestep: stopped; what was recorded is in {tmp_path / 'runs'}: "
        f"`truestep report {tmp_path / 'runs'}/*/` shows it\n"
    )


def test_a_demo_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "truestep.lab.demo", None)
    assert_one_line(truestep("demo", "--dir", tmp_path), "the demo needs", "pip install 'truestep[lab]'")


# --- what was called wrongly


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """The exit code of `truestep` with these words."""
    monkeypatch.setattr(sys, "argv", ["truestep", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


WRONG = {
    "report": ("truestep report: Missing argument", "RUN"),
    "bogus": ("truestep: No such command 'bogus'",),
    "--bogus": ("truestep: No such option", "--bogus"),
    "demo --steps x": ("truestep demo: Invalid value for '--steps'", "integer"),
    "demo --steps 0": ("truestep demo: Invalid value for '--steps'", "1"),
    "lab bogus": ("truestep lab: No such command 'bogus'",),
    "lab run --seeds x": ("truestep lab run: Invalid value for '--seeds'", "integer"),
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_call_is_one_line_that_says_what_is_wrong_and_where_to_look(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, *line.split()) == 2
    out, err = capsys.readouterr()
    start, *words = WRONG[line]
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(start)
    assert all(word in err for word in words), err
    assert err.endswith(f"; see `{start.partition(':')[0]} --help`\n")


def test_the_exit_codes_are_those_of_the_commands(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "--version") == 0
    assert called(monkeypatch, "report", str(run_dir)) == 0
    assert called(monkeypatch, "report", str(run_dir / "none")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert called(monkeypatch) in {0, 2}  # as the installed typer and click have it
    assert "Usage: truestep" in "".join(capsys.readouterr())


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_is_130(error: type[BaseException], run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "load_run", stopped)
    assert called(monkeypatch, "report", str(run_dir)) == 130


# --- as a user calls it


def test_python_m_truestep_is_the_command() -> None:
    done = forked.run("-m", "truestep", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"truestep {__version__}\n", "")


@pytest.mark.skipif(not SCRIPT.exists(), reason=f"no {SCRIPT}: the package is not installed here")
def test_the_installed_command_reports_and_refuses(run_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, "report", run_dir], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run_dir / 'report.html'}\n", "")
    done = subprocess.run([SCRIPT, "report", tmp_path / "no"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"truestep: `run_dir` {tmp_path / 'no'} does not exist")
    assert done.stderr.count("\n") == 1
