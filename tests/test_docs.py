"""Every Python example of the documentation runs, page by page, in the order in which it is read."""

import doctest
import re
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(text: str) -> list[tuple[int, str]]:
    """The fenced Python blocks of a page, each with the number of lines before it."""
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in FENCE.finditer(text)]


def run(code: str, name: str, line: int, namespace: dict[str, object]) -> None:
    """Execute a block; one with prompts is a doctest, so its printed results are compared too."""
    if ">>> " not in code:
        exec(compile("\n" * line + code, name, "exec"), namespace)  # tracebacks show the lines of the page
        return
    test = doctest.DocTestParser().get_doctest(code, namespace, name, name, line)
    report: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False).failed
    assert not failed, "".join(report)
    namespace.update(test.globs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    failed: dict[int, str] = {}
    for line, code in examples(page.read_text()):
        try:
            run(code, str(page), line, namespace)
        except Exception as error:
            failed[line] = "".join(traceback.format_exception(error))
    assert failed == {}


def test_an_example_that_fails_is_found() -> None:
    text = "# page\n\n```python\nx = 1\n```\n\n```python\n>>> x\n2\n```\n\n```text\nno python\n```\n"
    namespace: dict[str, object] = {}
    (line, first), (_, second) = examples(text)
    assert (line, first) == (3, "x = 1\n")
    run(first, "page", line, namespace)
    with pytest.raises(AssertionError, match=r"Got:\n +1"):
        run(second, "page", 7, namespace)
    with pytest.raises(ZeroDivisionError):
        run("x / 0\n", "page", 0, namespace)
