"""What a trial is, as text: equal texts, equal trials, in every process and on every day."""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial, singledispatch
from importlib import import_module
from pathlib import PurePath
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor

from truestep.compare.sweep._source import is_users, source_digest, top_package

ADVICE: Final = "give functools.partial of an importable name"
BUILT_IN: Final = {"torch", "truestep"}  # their versions stand once in every content


def content(trial: Callable[[], Any]) -> str:
    """The JSON text that says what a trial computes.

    It holds the names of functions and classes, their arguments, the versions of torch and truestep, and of a package
    from which something is taken, and torch's default number format where that is not float32. Of functions and classes
    outside packages it holds a digest of their source text and of what that text names, so that an edited one is run
    again. It does not hold what files contain.

    Raises:
        ValueError: If something has no importable name, as a lambda, or cannot be described, as an open file.

    Example:
        >>> from functools import partial
        >>> content(partial(round, 2.5, ndigits=1))
        '{"torch":...,"trial":{"arguments":[2.5],"keywords":{"ndigits":1},"partial":{"name":"builtins:round"}},...'
    """
    known = {name: str(sys.modules[name].__version__) for name in BUILT_IN} | {"trial": described(trial)}
    if torch.get_default_dtype() != torch.float32:
        known["default"] = described(torch.get_default_dtype())
    return json.dumps(known, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def content_hash(trial: Callable[[], Any]) -> str:
    """SHA-256 of a trial's content, 64 hexadecimal digits: its address in a store.

    Example:
        >>> from functools import partial
        >>> content_hash(partial(round, 2.5)) == content_hash(partial(round, 2.5))
        True
        >>> content_hash(partial(round, 2.5)) == content_hash(partial(round, 2.75))
        False
        >>> content_hash(lambda: 3)
        Traceback (most recent call last):
        ValueError: `trials` must be made of names that can be imported, found ...<lambda>: give functools.partial of...
    """
    return hash_of(content(trial))


def hash_of(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@singledispatch
def described(value: Any) -> Any:
    """A value as JSON's own types. What is not one of them becomes an object that says what it is."""
    if is_dataclass(value):
        values = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"fields": values, "of": named(type(value))}
    if callable(value) and hasattr(value, "__qualname__"):
        return named(value)
    number: Any = value  # of numpy's, as from arange
    if type(value).__module__ == "numpy" and getattr(number, "shape", None) == () and number.dtype.kind in "biufc":
        return {"numpy": str(number.dtype), "number": repr(number.item())}
    found = f"{type(value).__module__}.{type(value).__qualname__}"
    raise ValueError(f"`trials` must be made of numbers, texts, frozen dataclasses and names, found {found}: {ADVICE}")


@described.register(type(None))
@described.register(int)
@described.register(float)
@described.register(str)
def _(value: Any) -> Any:
    return value


@described.register
def _(value: partial) -> Any:  # pyright: ignore[reportMissingTypeArgument]
    keywords = {name: described(of) for name, of in value.keywords.items()}
    return {"partial": described(value.func), "arguments": [described(of) for of in value.args], "keywords": keywords}


@described.register
def _(value: list) -> Any:  # pyright: ignore[reportMissingTypeArgument]
    return [described(of) for of in value]


@described.register
def _(value: tuple) -> Any:  # pyright: ignore[reportMissingTypeArgument]
    inside = [described(of) for of in value]
    return {"tuple": inside} if type(value) is tuple else {"tuple": inside, "of": named(type(value))}


@described.register
def _(value: dict) -> Any:  # pyright: ignore[reportMissingTypeArgument]
    """In its own order, which whoever goes through it sees."""
    return {"dict": [[described(key), described(of)] for key, of in value.items()]}


@described.register(set)
@described.register(frozenset)
def _(value: Any) -> Any:
    return {"set": sorted((described(of) for of in value), key=lambda of: json.dumps(of, sort_keys=True))}


@described.register
def _(value: Enum) -> Any:
    return {"enum": value.name, "of": named(type(value))}


@described.register
def _(value: bytes) -> Any:
    return {"bytes": value.hex()}


@described.register(complex)
@described.register(range)
@described.register(torch.dtype)
@described.register(torch.device)
def _(value: Any) -> Any:
    return {type(value).__name__: str(value)}


@described.register
def _(value: PurePath) -> Any:
    return {"path": value.as_posix()}


@described.register
def _(value: MethodType) -> Any:
    return {"method": value.__name__, "of": described(value.__self__)}


@described.register
def _(value: Tensor) -> Any:
    if value.layout != torch.strided or value.is_meta:
        found = f"one of layout {value.layout} on {value.device}"
        raise ValueError(f"`trials` must have dense tensors with values, found {found}: {ADVICE}")
    data = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    digest = hashlib.sha256(ctypes.string_at(data.data_ptr(), data.nbytes)).hexdigest() if data.nbytes else ""
    return {"tensor": digest, "dtype": str(value.dtype), "shape": list(value.shape), "device": str(value.device)}


@described.register
def _(value: type) -> Any:
    return named(value)


def named(value: Any) -> dict[str, str]:
    """The name that a function or class is imported by, and what may change under that name: source or version.

    Raises:
        ValueError: If nothing of that name can be imported, or that is another object.
    """
    qualname = value.__qualname__
    module = getattr(value, "__module__", None) or "builtins"
    if _imported(module, qualname) is not value:
        name = f"{module}:{qualname}"
        raise ValueError(f"`trials` must be made of names that can be imported, found {name}: {ADVICE}")
    out = {"name": f"{module}:{qualname}"}
    if is_users(module):
        return out | {"source": source_digest(value)}
    package = sys.modules.get(top_package(module))
    version = None if top_package(module) in BUILT_IN else getattr(package, "__version__", None)
    return out if version is None else out | {"version": str(version)}


def _imported(module: str, qualname: str) -> Any:
    """What stands under a name; None if there is nothing."""
    try:
        found = import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found
