"""Missing packages: the name stays, using it says what to install."""

import sys

import pytest

from truestep.lab import CLAIMS, t_interval
from truestep.lab._digits import digits
from truestep.lab._figure import panels


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("sklearn.datasets", digits),
        ("scipy.special", lambda: t_interval([1.0, 2.0])),
        ("matplotlib.figure", panels),
    ],
)
def test_a_missing_package_gives_the_line_to_type(package: str, use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for a package that is not there
    with pytest.raises(ImportError, match=r"pip install 'truestep\[lab\]'"):
        use()
    assert CLAIMS  # the claims can still be listed
