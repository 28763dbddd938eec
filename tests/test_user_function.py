"""A function named on the command line is found and called, and its mistakes are one line that says where."""

import importlib.util
import sys
from pathlib import Path

import pytest

from truestep._user_function import UserError, call, user_code

SOURCE = """
import json

def value():
    return 7

def key():
    return {}["lr"]

def deep():
    return json.loads("{")

def noted():
    error = RuntimeError("no")
    error.add_note("on half of it")
    raise error

number = 3
"""


@pytest.fixture(autouse=True)
def _user_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_train.py").write_text(SOURCE)
    (tmp_path / "users_broken.py").write_text("import no_such_package\n")
    (tmp_path / "users_syntax.py").write_text("def f(:\n")
    (tmp_path / "users_package").mkdir()
    (tmp_path / "users_package" / "inner.py").write_text("def value():\n    return 8\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith("users_")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_module_of_the_current_directory_is_found_and_the_search_path_left_as_it_was() -> None:
    before = list(sys.path)
    assert call("users_train:value") == 7
    assert call("users_train.py:value") == 7
    assert call("users_package.inner:value") == 8
    assert sys.path == before


WRONG = {
    "users_train": "must be module:function",
    ":value": "must be module:function",
    "users_train:": "must be module:function",
    "users_nothing:value": "there is no module `users_nothing`",
    "users_package.nothing:value": "there is no module `users_package.nothing`",
    "users_train:nothing": "`users_train` has no function `nothing`",
    "users_train:number": "`users_train` has no function `number`: that is of type int",
    "users_train:key": "users_train:key raised KeyError: 'lr' at users_train.py:8",
    "users_train:noted": r"raised RuntimeError: no at users_train.py:16 \(on half of it\)",
    "users_broken:value": "raised ModuleNotFoundError: No module named 'no_such_package' at users_broken.py:1",
    "users_syntax:f": "users_syntax:f raised SyntaxError",
}


@pytest.mark.parametrize("target", WRONG)
def test_what_is_wrong_is_said_with_its_place(target: str) -> None:
    with pytest.raises(UserError, match=WRONG[target]):
        call(target)


def test_our_own_refusals_come_in_their_own_words() -> None:
    from truestep.loss.accumulation._collate import joined

    with pytest.raises(UserError, match=r"^m:f gave what cannot be used: `batch` \(int\) differs"), user_code("m:f"):
        joined([1, 2])


def test_our_own_refusals_come_in_their_own_words_where_we_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "site-packages" / "truestep"
    home.mkdir(parents=True)
    (home / "ours.py").write_text("def refuse():\n    raise ValueError('`x` must be 1')\n")
    monkeypatch.setattr("truestep._user_function.OURS", str(home))
    spec = importlib.util.spec_from_file_location("ours", home / "ours.py")
    assert spec is not None
    assert spec.loader is not None
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    with pytest.raises(UserError, match=r"^m:f gave what cannot be used: `x` must be 1$"), user_code("m:f"):
        ours.refuse()


def test_ctrl_c_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt), user_code("m:f"):
        raise KeyboardInterrupt
