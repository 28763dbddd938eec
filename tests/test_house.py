"""The house is in order: imports are light, files are small and tested, and what is written twice agrees."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import truestep

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "truestep"
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Source files without a test file of their own, each with the reason.
TESTED_ELSEWHERE: dict[str, str] = {
    "__main__.py": "two lines; test_cli runs them",
    "core/_step.py": "two dataclasses without behaviour; test_recorder fills them",
    "monitor/_schema.py": "the text of the tables; test_sqlite and test_run write and read them",
    "monitor/report/_axes.py": "the axes of the figures; test_figures has their laws",
    "monitor/report/_heat.py": "one of the figures; test_figures draws it with the others",
    "monitor/report/_view.py": "all that the page is told; test_page reads it there",
    "monitor/sinks/_file.py": "the file as such; test_disk and test_record make, lock and break it",
    "monitor/sinks/_process.py": "the process's end and its forks; test_record ends and forks processes",
    "monitor/sinks/_rows.py": "the rows' way into the file; test_sqlite and test_writer compare both ends",
}


def imported_by(statement: str) -> set[str]:
    """Foreign packages that a fresh interpreter imports for `statement`, beyond torch's and jaxtyping's own."""
    code = f"import sys, torch, jaxtyping; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    packages = {name.partition(".")[0] for name in printed.split()}
    return packages - sys.stdlib_module_names - {"truestep", "torch", "jaxtyping"}


def test_importing_the_rooms_of_a_run_imports_nothing_foreign() -> None:
    rooms = ("core", "invariance", "loss", "multitask", "conditioning", "recipe", "compare", "monitor")
    assert imported_by(f"import {', '.join(f'truestep.{room}' for room in rooms)}") == set()


def test_a_foreign_import_would_be_seen() -> None:
    assert "rich" in imported_by("import rich")


def has_mirror(path: Path) -> bool:
    """Whether tests/<room>/ holds test_<name>.py or test_<name>_<aspect>.py for the source file."""
    room, *_ = path.relative_to(SOURCE).with_suffix("").parts
    tests = (ROOT / "tests").glob("*.py") if path.parent == SOURCE else (ROOT / "tests" / room).rglob("*.py")
    name = f"test_{path.stem.lstrip('_')}"
    return any(test.stem == name or test.stem.startswith(f"{name}_") for test in tests)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_source_file_has_its_test_file(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    assert has_mirror(path) or name in TESTED_ELSEWHERE


def test_no_exception_is_kept_for_a_file_that_is_gone_or_has_its_test() -> None:
    needed = {path.relative_to(SOURCE).as_posix() for path in FILES if not has_mirror(path)}
    assert set(TESTED_ELSEWHERE) <= needed


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_no_file_passes_400_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length > 400} == {}


def test_the_versions_agree() -> None:
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert PROJECT["version"] == cited == truestep.__version__


def test_whatever_make_installs_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line.partition("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    wanted = {canonical(name) for group in [PROJECT["dependencies"], *extras.values()] for name in group}
    assert wanted - {"truestep"} <= pinned


def canonical(requirement: str) -> str:
    """The package's name as an index writes it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_the_glossary_has_every_column_and_every_quantity() -> None:
    from truestep import invariance
    from truestep.monitor._schema import ASKED, TOOK

    glossary = (ROOT / "docs" / "glossary.md").read_text()
    names = [*ASKED, *TOOK, *invariance.__all__]
    assert [name for name in names if f"`{name}`" not in glossary] == []


@pytest.mark.parametrize(
    "room", ["core", "invariance", "loss", "multitask", "conditioning", "recipe", "compare", "monitor", "lab"]
)
def test_the_changelog_or_the_room_s_page_names_every_public_name(room: str) -> None:
    module = __import__(f"truestep.{room}", fromlist=["__all__"])
    written = (ROOT / "CHANGELOG.md").read_text() + (ROOT / "docs" / f"{room}.md").read_text()
    assert [name for name in module.__all__ if not re.search(rf"\b{name}\b", written)] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    printed = subprocess.run(["make", "-C", ROOT, "help"], check=True, capture_output=True, text=True).stdout
    assert sorted(re.findall(r"make (\w+) ", printed)) == sorted(phony.split())


@pytest.mark.parametrize("page", ["README.md", "docs/verdicts.md"])
def test_the_pages_show_the_lab_s_verdicts(page: str) -> None:
    from truestep.lab import CLAIMS
    from truestep.lab._report import markdown, summary
    from truestep.lab._results import COMMITTED, read

    _, table, _ = re.split(r"<!-- /?verdicts -->", (ROOT / page).read_text())
    results = [read(COMMITTED, claim.name) for claim in CLAIMS]
    there = [result for result in results if result is not None]
    assert table.strip() == (summary(there, "docs/verdicts.md") if page == "README.md" else markdown(there))
    assert None not in results
