"""Optimizers and problems by name: each builds, has its class's own lr, and a mistake is told with what was meant."""

import inspect
import pickle
import sys

import pytest
import torch

from truestep.compare._named import OPTIMIZERS, REFUSED, parse_optimizer, parse_problem, problem_name
from truestep.compare.problems import PROBLEMS


def write_module(tmp_path, monkeypatch) -> None:
    """A user's module, `my_optimizers`, in a directory that can be imported from."""
    source = """
import torch
def of_mine(params, lr=0.5, **more):
    return torch.optim.SGD(params, lr=lr, **more)
def outer():
    def inner(params):
        return torch.optim.SGD(params)
    return inner
inner = outer()
nameless = lambda params: torch.optim.SGD(params)
"""
    (tmp_path / "my_optimizers.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_optimizers", raising=False)


@pytest.mark.parametrize("known", OPTIMIZERS, ids=lambda known: known.name)
def test_a_name_gives_an_optimizer_at_its_class_s_own_lr_that_can_be_pickled(known) -> None:
    label, factory = parse_optimizer(known.name)
    assert label == known.name
    assert pickle.loads(pickle.dumps(factory)).keywords == factory.keywords
    built = factory([torch.nn.Parameter(torch.zeros(3))])
    assert built.param_groups[0]["lr"] == known.lr
    assert known.lr == inspect.signature(known.factory.func).parameters["lr"].default


def test_names_are_lower_case_and_stand_once() -> None:
    names = [known.name for known in OPTIMIZERS] + list(REFUSED)
    assert len(set(names)) == len(names)
    assert names == [name.lower() for name in names]


def test_every_torch_optimizer_has_a_name_or_a_reason() -> None:
    named = {known.factory.func.__name__.lower() for known in OPTIMIZERS} | set(REFUSED)
    theirs = {
        name.lower()
        for name in torch.optim.__all__
        if name != "Optimizer" and isinstance(getattr(torch.optim, name), type)
    }
    assert theirs <= named


def test_settings_are_python_s_values_and_later_ones_win_over_the_name_s_own() -> None:
    label, factory = parse_optimizer(" momentum : lr=3e-4, momentum=.5,nesterov=True ")
    assert label == "momentum:lr=3e-4,momentum=.5,nesterov=True"
    assert factory.keywords == {"lr": 3e-4, "momentum": 0.5, "nesterov": True}
    assert parse_optimizer("adam:betas=(0.5,0.9)")[1].keywords["betas"] == (0.5, 0.9)


def test_a_function_or_class_of_any_module_is_found_and_its_default_lr_is_written_out() -> None:
    _, factory = parse_optimizer("torch.optim:adamw:lr=0.5")
    assert (factory.func, factory.keywords) == (torch.optim.AdamW, {"lr": 0.5})
    _, factory = parse_optimizer("truestep.compare:Lion")
    assert factory.keywords == {"lr": 1e-4}


def test_a_user_s_function_takes_any_setting_and_what_no_worker_could_import_is_refused(tmp_path, monkeypatch) -> None:
    write_module(tmp_path, monkeypatch)
    assert parse_optimizer("my_optimizers:of_mine:momentum=0.9")[1].keywords == {"lr": 0.5, "momentum": 0.9}
    for name in ("inner", "nameless"):
        with pytest.raises(ValueError, match="is a lambda or a function within another"):
            parse_optimizer(f"my_optimizers:{name}")


def test_pytorch_optimizer_s_have_a_short_name() -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    label, factory = parse_optimizer("po:soap:lr=1e-3")
    assert (label, factory.func) == ("po:soap:lr=1e-3", pytorch_optimizer.SOAP)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("adm", "no optimizer is named `adm`; is it `adam`? `truestep compare --list` shows all"),
        ("zzz", "no optimizer is named `zzz`; `truestep compare --list` shows all"),
        ("lbfgs", "`lbfgs` cannot be compared: its curvature pairs assume its own step"),
        ("adam:", "must give settings as name=value"),
        ("adam:3e-4", "must give settings as name=value"),
        ("adam:lr=x", "`adam:lr=x`: `lr` must be a number or another value of Python's, found x"),
        ("torch.optim:LBFGS", "`torch.optim:LBFGS` cannot be compared: its curvature pairs assume its own step"),
        ("torch.optim:lbfgs:lr=0.5", "cannot be compared: its curvature pairs"),
        ("adam:lr=1,lr=2", "must give settings as name=value"),
        ("adam:**{}", "must give settings as name=value"),
        ("adam:eta=1", "`adam:eta=1`: Adam has no setting `eta`; is it `betas`?"),
        ("adam:xyz=1", "Adam has no setting `xyz`; it takes lr, betas"),
        ("adam:lr=-1", "`adam:lr=-1` cannot be built: ValueError: Invalid learning rate: -1"),
        ("torch.optim:Adm", "`torch.optim` has no `Adm`; is it `Adam`?"),
        ("no_such_module:x", "`no_such_module:x` needs `no_such_module`, which cannot be imported"),
        ("operator:add", "`operator:add` cannot be built: TypeError"),
        ("builtins:list", "`builtins:list` must make a torch optimizer from parameters, found list"),
    ],
)
def test_a_mistake_is_told_in_one_line(text: str, told: str, unchecked: None) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared below
        parse_optimizer(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_problem_is_found_by_its_name_with_either_dash_and_takes_settings() -> None:
    assert parse_problem("digits-mlp").name == parse_problem("digits_mlp").name == "digits-mlp"
    noisy = parse_problem("rosenbrock:noise=1.0")
    assert noisy.name == "rosenbrock"
    (drawn,), (none,) = (next(each.batches(0)) for each in (noisy, parse_problem("rosenbrock")))
    assert drawn.all()
    assert not none.any()
    assert {problem_name(make) for make in PROBLEMS} >= {"digits-mlp", "char-gpt"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("digits", "no problem is named `digits`; is it `digits-mlp`?"),
        ("rosenbrock:noize=1", "rosenbrock has no setting `noize`; is it `noise`?"),
        ("rosenbrock:1", "must give settings as name=value"),
    ],
)
def test_a_problem_s_mistake_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_problem(text)
    assert told in str(error.value)
