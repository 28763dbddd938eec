"""The tables, as scikit-learn has them."""

import torch

from truestep.compare.problems import breast_cancer, diabetes, read_breast_cancer, read_diabetes


def test_the_classes_of_breast_cancer_are_357_benign_of_569() -> None:
    x, y = read_breast_cancer()
    assert x.shape == (569, 30)
    assert int(y.sum()) == 357


def test_the_targets_of_diabetes_are_raw() -> None:
    x, y = read_diabetes()
    assert x.shape == (442, 10)
    assert (y.min().item(), y.max().item()) == (25.0, 346.0)


def test_inputs_are_standardized_over_what_is_trained_on() -> None:
    for problem in (breast_cancer(), diabetes()):
        x = problem.probe()[0].double()  # all of the training part: less than 512
        torch.testing.assert_close(x.var(0, correction=0), torch.ones(x.shape[1]).double(), atol=1e-4, rtol=0)


def test_least_squares_on_diabetes_solves_it_without_hidden_units() -> None:
    problem = diabetes()
    x, y = problem.probe()
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    residual = y.double() - design @ torch.linalg.lstsq(design, y.double()).solution
    assert residual.square().mean() < problem.target < y.double().var()
