"""Optimizers and problems by the names that a command line knows, and any other as `module:name`."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

import torch
from torch.optim import Optimizer

from truestep.compare._ada_belief import AdaBelief
from truestep.compare._factory import rehearsed
from truestep.compare._lion import Lion
from truestep.compare._sign_sgd import SignSGD
from truestep.compare.problems import PROBLEMS, Problem


@dataclass(frozen=True, slots=True)
class NamedOptimizer:
    """An optimizer's name on the command line, what makes it at its default lr, and one line about it."""

    name: str
    factory: partial[Optimizer]
    about: str

    @property
    def lr(self) -> float:
        """The lr that it has where none is given: its class's own."""
        return float(self.factory.keywords["lr"])


OPTIMIZERS: Final = (
    NamedOptimizer("sgd", partial(torch.optim.SGD, lr=1e-3), "the gradient itself"),
    NamedOptimizer("momentum", partial(torch.optim.SGD, lr=1e-3, momentum=0.9), "SGD with momentum 0.9"),
    NamedOptimizer(
        "nesterov", partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True), "SGD with Nesterov momentum 0.9"
    ),
    NamedOptimizer("adam", partial(torch.optim.Adam, lr=1e-3), "momentum over the root of the squares' average"),
    NamedOptimizer("adamw", partial(torch.optim.AdamW, lr=1e-3), "Adam with decoupled weight decay, 0.01"),
    NamedOptimizer("nadam", partial(torch.optim.NAdam, lr=2e-3), "Adam with Nesterov momentum"),
    NamedOptimizer("radam", partial(torch.optim.RAdam, lr=1e-3), "Adam, rectified: its first steps are SGD's"),
    NamedOptimizer("adamax", partial(torch.optim.Adamax, lr=2e-3), "Adam with the largest gradient, decayed"),
    NamedOptimizer("adabelief", partial(AdaBelief, lr=1e-3), "Adam with the distance from the average"),
    NamedOptimizer("rmsprop", partial(torch.optim.RMSprop, lr=1e-2), "the gradient over the root of the average"),
    NamedOptimizer("adagrad", partial(torch.optim.Adagrad, lr=1e-2), "the gradient over the root of the sum"),
    NamedOptimizer("adadelta", partial(torch.optim.Adadelta, lr=1.0), "RMSprop in the weight's own unit"),
    NamedOptimizer("adafactor", partial(torch.optim.Adafactor, lr=1e-2), "RMSprop with rows and columns for squares"),
    NamedOptimizer("signsgd", partial(SignSGD, lr=1e-3), "the gradient's sign"),
    NamedOptimizer("lion", partial(Lion, lr=1e-4), "the sign of two averages mixed"),
    NamedOptimizer("asgd", partial(torch.optim.ASGD, lr=1e-2), "SGD with a falling lr, and averaged weights"),
    NamedOptimizer("rprop", partial(torch.optim.Rprop, lr=1e-2), "the sign, with a step length for each weight"),
)
REFUSED: Final = {
    "lbfgs": "its curvature pairs assume its own step, and a step of it evaluates the loss many times",
    "muon": "torch's takes 2-D weights alone; give `module:function` of your own that pairs it with another",
    "sparseadam": "it takes sparse gradients alone, and no problem here has them",
}
SHORT: Final = {"po": "pytorch_optimizer"}  # modules that have a name of two letters here


def parse_optimizer(text: str) -> tuple[str, partial[Optimizer]]:
    """The optimizer that a command line names, as a label and as `params -> optimizer`.

    Args:
        text: A name of `OPTIMIZERS`, or `module:name` of an importable class or function (`po:SOAP` is
            pytorch_optimizer's); either may be followed by settings, `:lr=3e-4,betas=(0.9,0.99)`.

    Returns:
        The text without spaces, and a `functools.partial` that a sweep can send to other processes.

    Raises:
        ValueError: If there is no such optimizer or setting, or it cannot be built with them.

    Example:
        >>> label, factory = parse_optimizer("adam:lr=3e-4, eps=1e-16")
        >>> label, factory.keywords
        ('adam:lr=3e-4,eps=1e-16', {'lr': 0.0003, 'eps': 1e-16})
        >>> parse_optimizer("adm")
        Traceback (most recent call last):
        ValueError: no optimizer is named `adm`; is it `adam`? `truestep compare --list` shows all
    """
    label = "".join(text.split())
    name, settings = _split(label, {known.name for known in OPTIMIZERS} | set(REFUSED))
    base = partial(_imported(name)) if ":" in name else _known(name)
    given = _settings(settings, label, base.func)
    own = {"lr": default} if (default := _default_lr(base.func)) is not None else {}
    factory = partial(base.func, **{**own, **base.keywords, **given})
    _check_built(factory, label)
    return label, factory


def parse_problem(text: str) -> Problem:
    """The problem of this name, `digits-mlp`, with settings where given: `rosenbrock:noise=1.0`.

    Raises:
        ValueError: If there is no such problem or setting.

    Example:
        >>> parse_problem("rosenbrock:noise=1.0").name
        'rosenbrock'
        >>> parse_problem("digits_mpl")
        Traceback (most recent call last):
        ValueError: no problem is named `digits-mpl`; is it `digits-mlp`? `truestep compare --list` shows all
    """
    known = {problem_name(make): make for make in PROBLEMS}
    head, *rest = "".join(text.split()).split(":")
    name, settings = head.replace("_", "-"), ":".join(rest) if rest else None
    if name not in known:
        raise ValueError(f"no problem is named `{name}`{_near(name, known)}")
    return known[name](**_settings(settings, text, known[name]))


def problem_name(make: Callable[[], Problem]) -> str:
    """`digits-mlp` for `digits_mlp`."""
    return make.__name__.replace("_", "-")


def _split(label: str, known: Iterable[str]) -> tuple[str, str | None]:
    """`adam`, `adam:SETTINGS`, `module:name`, `module:name:SETTINGS`: what is to be built, and the settings."""
    head, *rest = label.split(":")
    if head in known:
        return head, ":".join(rest) if rest else None
    if not rest:
        return head, None
    return f"{head}:{rest[0]}", ":".join(rest[1:]) if rest[1:] else None


def _known(name: str) -> partial[Optimizer]:
    if name in REFUSED:
        raise ValueError(f"`{name}` cannot be compared: {REFUSED[name]}")
    for known in OPTIMIZERS:
        if known.name == name:
            return known.factory
    raise ValueError(f"no optimizer is named `{name}`{_near(name, [one.name for one in OPTIMIZERS])}")


def _imported(target: str) -> Callable[..., Optimizer]:
    """The class or function that `module:name` stands for; upper and lower case count only where they must."""
    module_name, _, name = target.partition(":")
    module_name = SHORT.get(module_name, module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f": pip install {module_name}" if error.name == module_name in SHORT.values() else ""
        raise ValueError(f"`{target}` needs `{error.name}`, which cannot be imported{hint}") from error
    makers: dict[str, Any] = {k: value for k, value in vars(module).items() if callable(value) and k[0] != "_"}
    alike = [key for key in makers if key.lower() == name.lower()]
    found = makers.get(name) or (makers[alike[0]] if len(alike) == 1 else None)
    if found is None:
        near = get_close_matches(name, list(makers), 1)
        raise ValueError(f"`{module_name}` has no `{name}`{f'; is it `{near[0]}`?' if near else ''}")
    if "<" in getattr(found, "__qualname__", "<"):
        raise ValueError(f"`{target}` is a lambda or a function within another: name one of a module's own")
    return found


def _settings(text: str | None, label: str, function: Callable[..., Any]) -> dict[str, Any]:
    """`lr=3e-4,betas=(0.9,0.99)` as keywords, each of them one that the function takes."""
    if text is None:
        return {}
    wrong = f"`{label}` must give settings as name=value, parted by commas, as in adam:lr=3e-4,betas=(0.9,0.99)"
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not call.keywords:
            raise ValueError(wrong)
        given = {one.arg: _value(one.value, label, one.arg) for one in call.keywords if one.arg}
    except SyntaxError as error:
        raise ValueError(wrong) from error
    if len(given) < len(call.keywords):  # one stood twice, or was no name
        raise ValueError(wrong)
    taken = inspect.signature(function).parameters
    open_ended = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    for name in given:
        if name not in taken and not open_ended:
            near = get_close_matches(name, taken, 1)
            named = f"is it `{near[0]}`?" if near else f"it takes {', '.join(n for n in taken if n != 'params')}"
            raise ValueError(f"`{label}`: {function.__name__} has no setting `{name}`; {named}")
    return given


def _value(node: ast.expr, label: str, name: str) -> Any:
    """A number, string, tuple, True, False or None; nothing is run."""
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        found = ast.unparse(node)
        raise ValueError(f"`{label}`: `{name}` must be a number or another value of Python's, found {found}") from error


def _default_lr(function: Callable[..., Any]) -> float | None:
    """The lr of the function's own signature, written out so that a report can name it."""
    parameter = inspect.signature(function).parameters.get("lr")
    return float(parameter.default) if parameter and isinstance(parameter.default, int | float) else None


def _check_built(factory: partial[Any], label: str) -> None:
    """Build it for a weight or two: what it refuses is refused here, before any training."""
    try:
        built: Any = rehearsed(factory)
    except ValueError as error:
        cause = error.__cause__ or error
        raise ValueError(f"`{label}` cannot be built: {type(cause).__name__}: {cause}") from error
    if not isinstance(built, Optimizer):
        raise ValueError(f"`{label}` must make a torch optimizer from parameters, found {type(built).__name__}")
    if any(made.__name__.lower() == "lbfgs" for made in type(built).mro()):  # whatever module it was named by
        raise ValueError(f"`{label}` cannot be compared: {REFUSED['lbfgs']}")


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"{f'; is it `{near[0]}`?' if near else ';'} `truestep compare --list` shows all"
