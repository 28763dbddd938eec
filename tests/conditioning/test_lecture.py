"""The formulas of lecture 5 on covariate shift, each where it holds, and each correction beside what is printed.

Grosse, CSC 2541 (2021), lecture 5, first half. Inputs a of a layer s = W a + b have mean m and covariance Sigma;
(a; 1) has the second moments Abar, and nu = |m|^2 + 1. The identities of batch centering are in
centering/test_batch_center.py, the invariance of quasi-diagonal steps in transforms/.
"""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.nn.functional import batch_norm, cross_entropy, one_hot

from truestep.core import moments

ACTIVATIONS = (torch.sigmoid, torch.tanh, torch.relu, lambda s: torch.sigmoid(s) - 0.5, lambda s: s)
NO_EPS = 1e-30  # torch refuses 0


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def second_moments(size: int) -> Tensor:
    x = randn(3 * size, size)
    return x.T @ x / len(x)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal to `tolerance` of the largest entry."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def with_bias(a: Tensor) -> Tensor:
    return torch.cat([a, torch.ones_like(a[..., :1])], -1)


def root(sigma: Tensor, power: float) -> Tensor:
    """A power of a positive matrix."""
    values, vectors = torch.linalg.eigh(sigma)
    return vectors * values**power @ vectors.T


def cosine(x: Tensor, y: Tensor) -> float:
    return float((x @ y).abs() / (x.norm() * y.norm()))


def layer(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mean, covariance and Abar of one of a hundred random layers' inputs, and nu."""
    torch.manual_seed(seed)
    width, before = 2 + seed % 17, 3 + seed % 7
    offset = (seed % 11) / 2
    s = randn(200, before) @ randn(before, width) / before**0.5 + offset * randn(width)
    a = ACTIVATIONS[seed % len(ACTIVATIONS)](s)
    m = moments(a)
    abar = moments(with_bias(a))
    return m.mean, m.covariance, abar.aa / abar.n, float(m.mean @ m.mean) + 1


# Kronecker products and the order of the weights


def test_the_eigenvalues_of_a_kronecker_product_are_all_products() -> None:
    A, S = second_moments(5), second_moments(4)
    products = torch.outer(torch.linalg.eigvalsh(A), torch.linalg.eigvalsh(S)).flatten().sort().values
    assert_close(torch.linalg.eigvalsh(torch.kron(A, S)), products, 1e-14)


def test_its_eigenvectors_are_the_kronecker_products_of_eigenvectors() -> None:
    A, S = second_moments(5), second_moments(4)
    (values_a, vectors_a), (values_s, vectors_s) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    vectors = torch.kron(vectors_a, vectors_s)
    assert_close(torch.kron(A, S) @ vectors, vectors * torch.outer(values_a, values_s).flatten(), 1e-13)


def test_a_layer_s_block_is_s_kron_a_where_torch_flattens_and_a_kron_s_where_columns_are_stacked() -> None:
    a, S = randn(20, 4) + 1, second_moments(3)
    A = a.T @ a / len(a)

    def loss(w: Tensor) -> Tensor:
        s = a @ w.T
        return (s @ S * s).sum() / (2 * len(a))

    w = randn(3, 4)
    by_rows = hessian(lambda flat: loss(flat.view(3, 4)), w.flatten())
    by_columns = hessian(lambda flat: loss(flat.view(4, 3).T), w.T.flatten())
    assert_close(by_rows, torch.kron(S, A))
    assert_close(by_columns, torch.kron(A, S))
    assert_close(torch.linalg.eigvalsh(by_rows), torch.linalg.eigvalsh(by_columns))  # the mistake does not show there
    assert float((by_rows - by_columns).abs().max()) > 0.1


# The outlier


@pytest.fixture(scope="module")
def layers() -> list[tuple[Tensor, Tensor, Tensor, float]]:
    return [layer(seed) for seed in range(100)]


def test_the_moments_with_the_bias_are_the_covariance_plus_one_outer_product(
    layers: list[tuple[Tensor, Tensor, Tensor, float]],
) -> None:
    for mean, sigma, abar, _ in layers:
        mbar = with_bias(mean)
        bordered = torch.nn.functional.pad(sigma, (0, 1, 0, 1))
        assert_close(abar, bordered + torch.outer(mbar, mbar))


def test_the_largest_eigenvalue_lies_in_its_bounds_in_all_of_100_layers(
    layers: list[tuple[Tensor, Tensor, Tensor, float]],
) -> None:
    for mean, sigma, abar, nu in layers:
        largest = torch.linalg.eigvalsh(abar).flip(0)
        spread = float(torch.linalg.eigvalsh(sigma)[-1])
        slack = 1e-12 * (nu + spread)
        low, high = nu + float(mean @ sigma @ mean) / nu, nu + spread
        assert low - slack <= float(largest[0]) <= high + slack
        assert float(largest[1]) <= spread + slack


def test_nu_itself_is_a_lower_bound_only(layers: list[tuple[Tensor, Tensor, Tensor, float]]) -> None:
    above = [float(torch.linalg.eigvalsh(abar)[-1]) / nu for *_, abar, nu in layers]
    assert min(above) >= 1 - 1e-12
    assert max(above) > 1.5


def test_the_outlier_s_direction_is_the_mean_with_the_bias_coordinate(
    layers: list[tuple[Tensor, Tensor, Tensor, float]],
) -> None:
    with_one, with_zero = [], []
    for mean, sigma, abar, nu in layers:
        if nu < 25 * float(torch.linalg.eigvalsh(sigma)[-1]):
            continue  # no outlier, whatever the mean
        top = torch.linalg.eigh(abar).eigenvectors[:, -1]
        with_one.append(cosine(top, with_bias(mean)))
        with_zero.append(cosine(top, torch.cat([mean, mean.new_zeros(1)])))
    assert len(with_one) >= 20
    assert min(with_one) > 0.999
    assert min(with_zero) < 0.9  # the lecture prints m (x) v, without the bias


def test_a_long_mean_makes_no_outlier_where_the_activations_spread_as_wide() -> None:
    a = randn(500, 6) * torch.tensor([1, 1, 1, 1, 1, 20.0], dtype=torch.float64)
    a = a - a.mean(0) + torch.tensor([5.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    bar = with_bias(a)
    top = torch.linalg.eigh(bar.T @ bar / len(a)).eigenvectors[:, -1]
    assert cosine(top, with_bias(a.mean(0))) < 0.1  # nu = 26, lambda_1(Sigma) = 400


def test_centred_activations_of_small_spread_leave_the_bias_as_an_outlier() -> None:
    a = torch.sigmoid(0.3 * randn(500, 6)) - 0.5
    bar = with_bias(a - a.mean(0))
    values, vectors = torch.linalg.eigh(bar.T @ bar / len(a))
    assert float(values[-1] / values[-2]) > 50
    assert cosine(vectors[:, -1], one_hot(torch.tensor(6), 7).double()) > 1 - 1e-12


# How many outliers


def output_curvature(logits: Tensor) -> Tensor:
    """S of a softmax layer under cross-entropy, the mean of diag(p) - p p'."""
    p = logits.softmax(-1)
    return torch.diag(p.mean(0)) - p.T @ p / len(p)


def rank(x: Tensor) -> int:
    values = torch.linalg.eigvalsh(x)
    return int((values > 1e-12 * values[-1]).sum())


def test_a_softmax_s_curvature_has_one_direction_less_than_classes() -> None:
    logits, targets = randn(300, 10), torch.arange(300) % 10
    S = output_curvature(logits)
    assert_close(hessian(lambda shift: cross_entropy(logits + shift, targets), logits.new_zeros(10)), S)
    assert rank(S) == 9
    assert float((S @ torch.ones(10, dtype=torch.float64)).abs().max()) < 1e-15  # one shift of all logits


def test_a_softmax_head_of_10_classes_has_9_outliers() -> None:
    a, S = 3 + 0.3 * randn(300, 6), output_curvature(randn(300, 10))
    bar = with_bias(a)
    curvature = torch.linalg.eigvalsh(S)
    block = torch.linalg.eigvalsh(torch.kron(bar.T @ bar / len(a), S))
    centred = float(torch.linalg.eigvalsh(moments(a).covariance)[-1] * curvature[-1])  # the largest without a mean
    assert int((block > 10 * centred).sum()) == 9  # the lecture says as many as M


def test_a_hidden_layer_s_curvature_has_full_rank() -> None:
    logits, w = randn(300, 10), randn(10, 14)
    slopes = 1 - randn(300, 14).tanh() ** 2
    p = logits.softmax(-1)
    each = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    jacobian = w * slopes[:, None, :]  # [samples, classes, units]
    assert rank((jacobian.mT @ each @ jacobian).mean(0)) == 14


# Standardized coordinates


def recoded(mean: Tensor, sigma: Tensor, out: int) -> Tensor:
    """R^-1 as the Jacobian of the recoding, over weights with columns stacked and the bias behind them."""
    d = len(mean)

    def recode(theta: Tensor) -> Tensor:
        w, b = theta[: out * d].view(d, out).T, theta[out * d :]
        return torch.cat([(w @ root(sigma, 0.5)).T.flatten(), b + w @ mean])

    return jacobian(recode, randn(out * d + out))


def test_the_corner_block_of_the_recoding_is_an_identity_as_large_as_the_bias() -> None:
    mean, sigma, out = randn(4) + 1, second_moments(4), 3
    inverse = recoded(mean, sigma, out)
    corner = inverse[4 * out :, 4 * out :]
    assert torch.equal(corner, eye(out))  # the lecture prints 1
    assert_close(inverse[: 4 * out, : 4 * out], torch.kron(root(sigma, 0.5), eye(out)))
    assert_close(inverse[4 * out :, : 4 * out], torch.kron(mean[None], eye(out)))
    assert torch.equal(inverse[: 4 * out, 4 * out :], torch.zeros(4 * out, out, dtype=torch.float64))


def test_standardized_coordinates_leave_the_function_alone() -> None:
    a, w, b = randn(50, 4) + 1, randn(3, 4), randn(3)
    mean, sigma = moments(a).mean, moments(a).covariance
    standardized = (a - mean) @ root(sigma, -0.5)
    assert_close(moments(standardized).covariance, eye(4), 1e-12)
    assert_close(standardized @ (w @ root(sigma, 0.5)).T + (b + w @ mean), a @ w.T + b)


@pytest.mark.parametrize("out", [1, 3])
def test_the_curvature_that_the_recoding_assumes_is_abar_kron_i(out: int) -> None:
    mean, sigma = randn(4) + 1, second_moments(4)
    inverse = recoded(mean, sigma, out)
    mbar = with_bias(mean)
    abar = torch.nn.functional.pad(sigma, (0, 1, 0, 1)) + torch.outer(mbar, mbar)
    assert_close(inverse.T @ inverse, torch.kron(abar, eye(out)))  # K-FAC with S = I


def test_the_preconditioner_and_not_its_inverse_is_quasi_diagonal_for_uncorrelated_inputs() -> None:
    mean, variance = randn(4) + 1, randn(4).exp()
    inverse = recoded(mean, torch.diag(variance), 1)
    preconditioner = torch.linalg.inv(inverse.T @ inverse)
    expected = torch.diag(torch.cat([1 / variance, (1 + (mean**2 / variance).sum())[None]]))
    expected[-1, :-1] = expected[:-1, -1] = -mean / variance
    assert_close(preconditioner, expected)
    others = inverse.T @ inverse
    assert float((others - torch.diag(others.diag()))[:-1, :-1].abs().max()) > 0.1


def gradients(w: Tensor, b: Tensor, a: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    s = a @ w.T + b
    ds = (s.softmax(-1) - one_hot(targets, s.shape[-1])) / len(a)
    return ds.T @ a, ds.sum(0)


@pytest.mark.parametrize("out", [3, 7])
def test_fifty_preconditioned_steps_are_gradient_descent_in_standardized_coordinates(out: int) -> None:
    a, targets = randn(60, 5) @ randn(5, 5) + 3, torch.arange(60) % out
    mean, sigma = moments(a).mean, moments(a).covariance
    w, b = randn(out, 5), randn(out)
    twin_w, twin_b, standardized = w @ root(sigma, 0.5), b + w @ mean, (a - mean) @ root(sigma, -0.5)
    for _ in range(50):
        gw, gb = gradients(w, b, a, targets)
        dw = (gw - torch.outer(gb, mean)) @ torch.linalg.inv(sigma)
        w, b = w - 0.5 * dw, b - 0.5 * (gb - dw @ mean)
        gw, gb = gradients(twin_w, twin_b, standardized, targets)
        twin_w, twin_b = twin_w - 0.5 * gw, twin_b - 0.5 * gb
    assert_close(a @ w.T + b, standardized @ twin_w.T + twin_b)


def test_a_centred_gradient_is_a_descent_direction_with_both_its_halves_only() -> None:
    gw, gb, mean = torch.tensor([[1.5, 0.0]]), torch.tensor([1.0]), torch.tensor([3.0, 0.0])
    dw = gw - torch.outer(gb, mean)
    assert float((dw * gw).sum() + (gb * gb).sum()) == -1.25
    assert float((dw * gw).sum() + ((gb - dw @ mean) * gb).sum()) == 3.25


# Batch normalization


def normalized(a: Tensor, w: Tensor, eps: float = NO_EPS) -> Tensor:
    """BN(A W') in training."""
    return batch_norm(a @ w.T, None, None, training=True, eps=eps)


def test_it_divides_by_the_population_s_standard_deviation() -> None:
    z = randn(20, 3) + 2
    assert_close(normalized(z, eye(3)), (z - z.mean(0)) / z.std(0, correction=0))


def test_it_does_not_see_a_shift_or_one_scale_of_the_layer_s_inputs() -> None:
    a, w = randn(40, 5) + 1, randn(3, 5)
    assert_close(normalized(a + 10 * randn(5), w), normalized(a, w))
    for scale in (0.01, 3.0):
        assert_close(normalized(scale * a, w), normalized(a, w))


def test_it_sees_scales_of_single_units() -> None:
    a, w = randn(40, 5) + 1, randn(3, 5)
    scales = torch.tensor([0.2, 1, 1, 1, 3.0], dtype=torch.float64)
    assert float((normalized(a * scales, w) - normalized(a, w)).abs().max()) > 0.3


def test_it_does_not_see_scales_of_its_own_units_weights() -> None:
    a, w = randn(40, 5) + 1, randn(3, 5)
    scales = torch.tensor([[0.2], [1.0], [3.0]], dtype=torch.float64)
    assert_close(normalized(a, scales * w), normalized(a, w))


def test_its_eps_sees_small_inputs() -> None:
    a, w = randn(40, 5), randn(3, 5) / 5**0.5
    assert float((normalized(0.01 * a, w, eps=1e-5) - normalized(a, w, eps=1e-5)).abs().max()) > 0.05


def logits_after(a: Tensor, targets: Tensor) -> Tensor:
    """Logits of a net that normalizes its hidden layer, on its own inputs, after 20 steps of gradient descent."""
    torch.manual_seed(2)
    w, head = randn(6, 5).requires_grad_(), randn(3, 6).requires_grad_()
    for _ in range(20):
        loss = cross_entropy(normalized(a, w).relu() @ head.T, targets)
        gw, gh = torch.autograd.grad(loss, (w, head))
        w, head = ((x - 0.5 * g).detach().requires_grad_() for x, g in ((w, gw), (head, gh)))
    return (normalized(a, w).relu() @ head.T).detach()


def test_training_with_it_is_the_same_on_shifted_inputs() -> None:
    a, targets = randn(40, 5), torch.arange(40) % 3
    still = logits_after(a, targets)
    assert_close(logits_after(a + 10, targets), still)
    assert float((logits_after(a * torch.linspace(0.2, 3, 5).double(), targets) - still).abs().max()) > 0.1


def test_one_scale_of_the_inputs_leaves_the_weights_gradient_alone() -> None:
    a, targets, w = randn(40, 5), torch.arange(40) % 3, randn(3, 5).requires_grad_()
    (still,) = torch.autograd.grad(cross_entropy(normalized(a, w), targets), w)
    (scaled,) = torch.autograd.grad(cross_entropy(normalized(7 * a, w), targets), w)
    assert_close(scaled, still)


def losses_of_head(shift: Tensor, centred: bool) -> Tensor:
    """Losses of 20 steps of a net that normalizes its hidden layer, `shift` added to what its head takes.

    The head's bias takes the shift up, so that the function is the same at the start.
    """
    torch.manual_seed(2)
    a, targets = randn(40, 5), torch.arange(40) % 3
    w, head = randn(6, 5).requires_grad_(), randn(3, 6).requires_grad_()
    bias = (torch.zeros(3, dtype=torch.float64) if centred else -(head @ shift).detach()).requires_grad_()
    losses: list[Tensor] = []
    for _ in range(20):
        logits = (normalized(a, w).relu() + shift) @ head.T
        logits = (logits - logits.mean(0) if centred else logits) + bias
        losses.append(loss := cross_entropy(logits, targets))
        gradients = torch.autograd.grad(loss, (w, head, bias))
        w, head, bias = (
            (x - 0.5 * g).detach().requires_grad_() for x, g in zip((w, head, bias), gradients, strict=True)
        )
    return torch.stack(losses).detach()


def test_a_shift_of_the_last_hidden_activations_is_the_head_s_own_affair() -> None:
    still, shift = torch.zeros(6, dtype=torch.float64), 3 + randn(6)
    assert_close(losses_of_head(shift, centred=True), losses_of_head(still, centred=True))
    plain, shifted = losses_of_head(still, centred=False), losses_of_head(shift, centred=False)
    assert_close(shifted[:1], plain[:1])  # one function; the norm of the layer before does not help the head's steps
    assert float((shifted - plain).abs().max()) > 0.1


# The classical recommendation


def test_tanh_is_the_logistic_function_recoded() -> None:
    s = randn(100)
    assert_close(torch.tanh(s), 2 * torch.sigmoid(2 * s) - 1)
