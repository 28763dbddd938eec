"""Attributes come back: new ones go, changed ones return, and lists and dicts hold what they held."""

from contextlib import suppress
from types import SimpleNamespace

from truestep.integrations._restored import restored


def test_attributes_and_contents_come_back_also_after_an_exception() -> None:
    kept, names = [1], {"a": 1}
    holder = SimpleNamespace(kept=kept, names=names, number=1)
    with suppress(KeyError), restored(holder):
        holder.kept.append(2)
        holder.names = {"b": 2}
        names["c"] = 3
        holder.number, holder.more = 2, 3
        del holder.names
        raise KeyError
    assert vars(holder) == {"kept": [1], "names": {"a": 1}, "number": 1}
    assert holder.kept is kept
    assert holder.names is names
