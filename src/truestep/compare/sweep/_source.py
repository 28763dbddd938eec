"""The source behind a function or class of a user's own, with all that it names in turn.

Read from the files, not from what is in memory: a worker imports the files, and what a run has put into a module's
dict or list since is no part of them.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType
from typing import Any, Final

INSTALLED: Final = {"site-packages", "dist-packages"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def top_package(module: str) -> str:
    """The first part of a module's name."""
    return module.partition(".")[0]


def is_users(module: str) -> bool:
    """Whether a module is a file of the user's, as a script is, and no part of Python or of an installed package.

    Example:
        >>> [is_users(name) for name in ("json", "torch.optim", "truestep.core")]
        [False, False, False]
    """
    top = top_package(module)
    if top == "__main__":
        return True
    if top in {"torch", "truestep"} or top in sys.stdlib_module_names:
        return False
    file = _file(module)
    return file is not None and not INSTALLED & set(file.parts)


def _file(module: str) -> Path | None:
    """The file that a module is read from, imported or not."""
    if module in sys.modules:
        name = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return None
        name = spec.origin if spec is not None and spec.has_location else None
    return None if name is None else Path(name)


def source_digest(value: Any) -> str:
    """SHA-256 over the source of a function or class and of everything of the user's that it names.

    Comments and line breaks do not count.

    Raises:
        ValueError: If it has no source text.
    """
    module, name = value.__module__, value.__qualname__.partition(".")[0]
    if name not in _statements_of(module):
        raise ValueError(f"`trials` must have their source in a file, found {module}:{name} without: write it to one")
    reader = _Reader({}, set())
    reader.read(module, name, frozenset())
    text = "\n".join(f"{key}\n{reader.found[key]}" for key in sorted(reader.found))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Import:
    """`from module import what as name`, or `import module`, where `what` is None."""

    module: str
    what: str | None
    name: str


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement of a module: its text, the globals and attributes that it looks up, and what it imports."""

    text: str
    names: frozenset[str]
    imports: tuple[_Import, ...]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Goes from name to name, through the user's files."""

    found: dict[str, str]
    seen: set[tuple[str, str | None, frozenset[str]]]

    def read(self, module: str, name: str, asked: frozenset[str]) -> None:
        """Take the statements that give a module's `name` its meaning; `asked` are the attributes looked up in it."""
        if (module, name, asked) in self.seen:
            return
        self.seen.add((module, name, asked))
        for index, statement in enumerate(_statements_of(module).get(name, ())):
            for imported in statement.imports:
                self._enter(module, imported, statement.names | (asked if imported.name == name else frozenset()))
            if statement.text:
                self.found[f"{module}:{name}:{index}"] = statement.text
                for other in statement.names & _statements_of(module).keys():
                    self.read(module, other, statement.names)

    def _enter(self, module: str, imported: _Import, asked: frozenset[str]) -> None:
        """Follow an import into a file of the user's."""
        package = module if _is_package(module) else module.rpartition(".")[0]
        try:
            target = resolve_name(imported.module, package) if imported.module.startswith(".") else imported.module
        except ImportError:
            return
        if imported.what == "*":
            self._look_up(target, frozenset(_statements_of(target)) if is_users(target) else frozenset())
        elif imported.what is None:
            parts = target.split(".")
            for count in range(1, len(parts) + 1):
                self._look_up(".".join(parts[:count]), asked)
        elif is_users(target) and imported.what in _statements_of(target):
            self.read(target, imported.what, asked)
        else:
            self._look_up(f"{target}.{imported.what}", asked)

    def _look_up(self, module: str, asked: frozenset[str]) -> None:
        """The attributes that are asked of a module."""
        if (module, None, asked) in self.seen or not is_users(module):
            return
        self.seen.add((module, None, asked))
        for name in asked & _statements_of(module).keys():
            self.read(module, name, asked)


def _is_package(module: str) -> bool:
    file = _file(module)
    return file is not None and file.name == "__init__.py"


def _statements_of(module: str) -> dict[str, tuple[_Statement, ...]]:
    """By each name of the module, the statements that bind or change it."""
    file = _file(module)
    if file is None or file.suffix != ".py":
        return {}
    try:
        stat = file.stat()
        return _statements(file, stat.st_mtime_ns, stat.st_size)
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}


@lru_cache(maxsize=256)
def _statements(file: Path, _mtime: int, _size: int) -> dict[str, tuple[_Statement, ...]]:
    """Read once, until the file is written again."""
    found: dict[str, tuple[_Statement, ...]] = {}
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue  # what a script does; a worker never does it
        statement = _statement(node)
        for name in set(_bound(node)):
            found[name] = (*found.get(name, ()), statement)
    return found


def _statement(node: ast.stmt) -> _Statement:
    imports = tuple(of for inner in ast.walk(node) for of in _imports(inner))
    if isinstance(node, ast.Import | ast.ImportFrom):
        return _Statement("", frozenset(), imports)
    code = compile(ast.Module([node], []), "<statement>", "exec", dont_inherit=True)
    return _Statement(ast.unparse(node), frozenset(_names(code)), imports)


def _imports(node: ast.AST) -> Iterator[_Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _Import(alias.name, None, alias.asname or top_package(alias.name))
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            yield _Import(module, alias.name, alias.asname or alias.name)


def _names(code: CodeType) -> Iterator[str]:
    """All names that code, and functions inside it, look up: globals and attributes, no local ones."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds, or changes as `TABLE["a"] = 1` and `TABLE.update(a=1)` do."""
    if isinstance(node, Definition):
        yield node.name
        return
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, Definition):
            yield inner.name
        elif isinstance(inner, ast.Subscript | ast.Attribute) and (isinstance(inner.ctx, ast.Store) or _is_call(node)):
            yield from (root.id for root in [_root(inner)] if isinstance(root, ast.Name))
        yield from (imported.name for imported in _imports(inner))


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node
