"""What is said where scikit-learn is missing."""

import sys

import pytest

from truestep.compare.problems import digits_mlp, read_breast_cancer, read_diabetes, read_digits


@pytest.mark.parametrize("read", [read_digits, read_breast_cancer, read_diabetes])
def test_a_missing_package_is_named_with_the_line_to_type(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"needs `sklearn.*`: pip install 'truestep\[lab\]'"):
        read()


def test_a_problem_is_made_and_built_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert digits_mlp().build(0)[0].in_features == 64
