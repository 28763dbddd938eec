"""Python programs in processes of their own, forked from one that has imported torch: once, not once a program.

A program sees what a fresh interpreter would show it (arguments, environment, no hook of jaxtyping's, an end with all
that Python does at its end), but what is imported here already is imported.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, warn: str = "default", patience: int = 240, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -W WARN WORDS`, of which the first is `-m` or `-c`, in the root of the repository."""
    program = [*map(str, words)]
    if not hasattr(os, "fork"):
        command, env = [sys.executable, "-W", warn, *program], os.environ | environment
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=patience, check=False)
    with tempfile.TemporaryDirectory() as folder:
        order = {"words": program, "warn": warn, "patience": patience, "folder": folder}
        parent = _parent()
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(json.dumps(order | {"environment": os.environ | environment}) + "\n")
        line = parent.stdout.readline()
        assert line, "the process that forks is gone"
        code = int(line)
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(program, code, out, err)


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that forks, until this one ends."""
    command = [sys.executable, "-m", "tests.forked"]
    made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    atexit.register(made.communicate)
    return made


def _import() -> None:
    """Import what programs do; nothing may be computed, for that would start threads, which no fork survives."""
    import torch._dynamo  # optimizers import it at their first step, in every rank
    import torch.distributed.fsdp
    import torch.distributed.tensor
    import torch.nn.parallel

    import truestep.loss
    import truestep.monitor
    import truestep.multitask  # noqa: F401

    torch.set_num_threads(1)


def _next() -> dict[str, Any]:
    """Fork for every line on stdin and print how the child ended; returns in the children alone."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    sys.exit()


def _become(warn: str, patience: int, folder: str, environment: dict[str, str]) -> None:
    """Take the program's environment, its files as stdin, stdout and stderr, and its time."""
    signal.alarm(patience)
    for number, (name, how) in enumerate(((os.devnull, "r"), ("out", "w"), ("err", "w"))):
        with Path(folder, name).open(how) as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    action, message, category = [*warn.split(":"), "", ""][:3]
    if action != "default":
        warnings.filterwarnings(action, re.escape(message), getattr(builtins, category or "Warning"))  # type: ignore[arg-type]


def _program(kind: str, what: str, *words: str) -> None:
    sys.argv = [kind, *words]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main: Any = sys.modules["__main__"]
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    _import()
    ORDER = _next()
    WORDS: Sequence[str] = ORDER.pop("words")
    _become(**ORDER)
    _program(*WORDS)
