"""Names are those of the bare model."""

from __future__ import annotations

from torch import nn

from truestep.core._names import bare, named_parameters, unwrapped


def test_wrappers_leave_no_trace_in_names() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    assert unwrapped(nn.DataParallel(nn.DataParallel(model))) is model
    assert list(named_parameters(nn.DataParallel(model))) == ["0.weight", "0.bias"]
    assert bare("_orig_mod.0._checkpoint_wrapped_module.weight") == "0.weight"


def test_a_tied_parameter_stands_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    assert list(named_parameters(model)) == ["a.weight"]
