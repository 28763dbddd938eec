"""Two problems on scikit-learn's tables: breast cancer, two classes; diabetes, with its targets as they are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from truestep.compare.problems._losses import binary_loss, squared_loss
from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import seeded
from truestep.compare.problems._supervised import supervised
from truestep.core._extra import lab_extra


def read_breast_cancer() -> tuple[Float[Tensor, "patients 30"], Float[Tensor, "patients 1"]]:
    """Thirty measures, not standardized, and 1 for benign.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    with lab_extra("this problem"):
        from sklearn.datasets import load_breast_cancer
    x, y = load_breast_cancer(return_X_y=True)
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)[:, None]


def read_diabetes() -> tuple[Float[Tensor, "patients 10"], Float[Tensor, "patients 1"]]:
    """Ten measures, not standardized, and how far the disease went in a year, from 25 to 346.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    with lab_extra("this problem"):
        from sklearn.datasets import load_diabetes
    x, y = load_diabetes(return_X_y=True, scaled=False)
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)[:, None]


def breast_cancer(*, batch_size: int = 32, device: str = "cpu") -> Problem:
    """An MLP 30-16-1 with ReLU, inputs standardized. Loss: cross-entropy in nats, mean.

    Args:
        batch_size: Patients a step.
        device: Where data and model live.

    Example:
        >>> problem = breast_cancer()
        >>> [len(batch[1]) for batch in (problem.probe(), problem.held_out())]
        [455, 114]
    """
    return supervised(
        "breast-cancer",
        read_breast_cancer,
        build_breast_cancer,
        binary_loss,
        target=0.06,
        max_steps=300,
        batch_size=batch_size,
        standardize=True,
        device=device,
    )


def diabetes(*, batch_size: int = 32, device: str = "cpu") -> Problem:
    """An MLP 10-32-1 with ReLU, inputs standardized, targets raw: the squared error starts near 29000.

    Args:
        batch_size: Patients a step.
        device: Where data and model live.

    Example:
        >>> problem = diabetes()
        >>> problem.probe_loss(problem.build(0)) > 25_000
        True
    """
    return supervised(
        "diabetes",
        read_diabetes,
        build_diabetes,
        squared_loss,
        target=3500.0,
        max_steps=1000,
        batch_size=batch_size,
        standardize=True,
        device=device,
    )


def build_breast_cancer(seed: int) -> nn.Module:
    """The MLP of `breast_cancer`, with torch's own initial weights."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def build_diabetes(seed: int) -> nn.Module:
    """The MLP of `diabetes`, with torch's own initial weights."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
