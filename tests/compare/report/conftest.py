"""Results typed in by hand, as fixtures."""

import pytest
from tests.compare.report import results


@pytest.fixture
def speed():
    return results.speed()


@pytest.fixture
def swap():
    return results.swap()


@pytest.fixture
def ranking():
    return results.make_ranking(("sgd", "adam", results.HOSTILE))
