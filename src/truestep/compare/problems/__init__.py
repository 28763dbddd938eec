"""Problems to compare optimizers on, nothing downloaded; readers of files that one has; `supervised` for one's own.

A problem is a function that gives a `Problem`: `digits_mlp()`, `rosenbrock(noise=1.0)`. `PROBLEMS` has all of them.
"""

from collections.abc import Callable
from typing import Final

from truestep.compare.problems._char_gpt import CharGPT, char_gpt
from truestep.compare.problems._digits import (
    digits_autoencoder,
    digits_cnn,
    digits_logistic,
    digits_mlp,
    read_digits,
)
from truestep.compare.problems._files import (
    read_cifar,
    read_cifar_data,
    read_idx,
    read_idx_data,
    read_npz,
    read_npz_data,
    read_text,
)
from truestep.compare.problems._folder import read_folder, read_folder_data
from truestep.compare.problems._functions import (
    beale,
    beale_at,
    quadratic,
    quadratic_at,
    rastrigin,
    rastrigin_at,
    rosenbrock,
    rosenbrock_at,
)
from truestep.compare.problems._losses import binary_loss, cross_entropy_loss, squared_loss, summed_squared_loss
from truestep.compare.problems._noisy_quadratic import noisy_quadratic
from truestep.compare.problems._problem import Problem
from truestep.compare.problems._seeds import data_stream, seeded, weight_stream
from truestep.compare.problems._supervised import minibatches, supervised
from truestep.compare.problems._tables import breast_cancer, diabetes, read_breast_cancer, read_diabetes
from truestep.compare.problems._zipf_text import entropy_rate, zipf_text

PROBLEMS: Final[tuple[Callable[[], Problem], ...]] = (
    rosenbrock,
    beale,
    quadratic,
    rastrigin,
    noisy_quadratic,
    digits_logistic,
    digits_mlp,
    digits_cnn,
    digits_autoencoder,
    breast_cancer,
    diabetes,
    char_gpt,
)

__all__ = [
    "PROBLEMS",
    "CharGPT",
    "Problem",
    "beale",
    "beale_at",
    "binary_loss",
    "breast_cancer",
    "char_gpt",
    "cross_entropy_loss",
    "data_stream",
    "diabetes",
    "digits_autoencoder",
    "digits_cnn",
    "digits_logistic",
    "digits_mlp",
    "entropy_rate",
    "minibatches",
    "noisy_quadratic",
    "quadratic",
    "quadratic_at",
    "rastrigin",
    "rastrigin_at",
    "read_breast_cancer",
    "read_cifar",
    "read_cifar_data",
    "read_diabetes",
    "read_digits",
    "read_folder",
    "read_folder_data",
    "read_idx",
    "read_idx_data",
    "read_npz",
    "read_npz_data",
    "read_text",
    "rosenbrock",
    "rosenbrock_at",
    "seeded",
    "squared_loss",
    "summed_squared_loss",
    "supervised",
    "weight_stream",
    "zipf_text",
]
