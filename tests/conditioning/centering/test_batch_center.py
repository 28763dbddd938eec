"""Batch centering: its three identities, what a shift of the inputs does to it, and BatchNorm as its reference."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, unfold

from truestep.conditioning.centering import BatchCenter1d, BatchCenter2d, batch_center
from truestep.conditioning.centering._batch_center import Statistics

N, D, OUT = 40, 5, 3


def off_centre(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64) + 2


def assert_equal(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal to `tolerance` of the largest entry."""
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def linear(a: Tensor, w: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of inputs, of gradients at Z and at the centred output, and the weights' gradient behind a linear layer."""
    z = a @ w.T
    z.retain_grad()
    y = BatchCenter1d(OUT, statistics=statistics, dtype=torch.float64)(z)
    y.retain_grad()
    cross_entropy(y, torch.arange(N) % OUT).backward()
    assert z.grad is not None
    assert y.grad is not None
    assert w.grad is not None
    return a, z.grad, y.grad, w.grad


def convolution(x: Tensor, w: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same behind a convolution: rows are places, their inputs the patches that the kernel sees."""
    z = conv2d(x, w, stride=2, padding=1)
    z.retain_grad()
    y = BatchCenter2d(OUT, statistics=statistics, dtype=torch.float64)(z)
    y.retain_grad()
    y.sin().square().mean().backward()
    assert z.grad is not None
    assert y.grad is not None
    assert w.grad is not None
    patches = unfold(x, 3, stride=2, padding=1)
    rows, at_z, at_y = (t.flatten(2).transpose(1, 2).flatten(0, 1) for t in (patches, z.grad, y.grad))
    return rows, at_z, at_y, w.grad.flatten(1)


def measured(layer: str, statistics: Statistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    if layer == "linear":
        return linear(off_centre(N, D), off_centre(OUT, D).requires_grad_(), statistics)
    return convolution(off_centre(6, 2, 7, 8), off_centre(OUT, 2, 3, 3).requires_grad_(), statistics)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_the_weights_gradient_is_that_of_centred_inputs(layer: str) -> None:
    a, at_z, at_y, gradient = measured(layer, "full")
    assert_equal(gradient, at_y.T @ (a - a.mean(0)))  # the lecture's, with the gradient at the centred output
    assert_equal(gradient, at_z.T @ a)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_the_direct_path_alone_gives_the_gradient_of_uncentred_inputs(layer: str) -> None:
    a, _, at_y, gradient = measured(layer, "direct")
    assert_equal(gradient, at_y.T @ a)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_the_statistics_path_is_minus_the_sum_of_the_gradients_times_the_mean_input(layer: str) -> None:
    a, _, at_y, full = measured(layer, "full")
    _, _, direct_at_y, direct = measured(layer, "direct")
    assert torch.equal(at_y, direct_at_y)
    assert_equal(full - direct, -torch.outer(at_y.sum(0), a.mean(0)))


def test_the_two_paths_have_one_output_bit_by_bit() -> None:
    x = torch.randn(N, OUT)
    full, direct = (BatchCenter1d(OUT, statistics=statistics) for statistics in ("full", "direct"))
    assert torch.equal(full(x), direct(x))
    assert torch.equal(full.running_mean, direct.running_mean)


def test_the_knockout_may_be_set_later() -> None:
    layer, x = BatchCenter1d(OUT), torch.randn(N, OUT, requires_grad=True)
    cotangent = torch.randn(N, OUT)
    layer.statistics = "direct"
    (gradient,) = torch.autograd.grad(layer(x), x, cotangent)
    assert torch.equal(gradient, cotangent)


def trajectory(shift: float, statistics: Statistics) -> list[float]:
    """Losses of 20 steps of gradient descent from one start, on inputs moved by `shift`."""
    torch.manual_seed(1)
    a = torch.randn(N, D, dtype=torch.float64) + shift
    center = BatchCenter1d(8, statistics=statistics)
    net = nn.Sequential(nn.Linear(D, 8), center, nn.Tanh(), nn.Linear(8, OUT)).double()
    losses = []
    for _ in range(20):
        loss = cross_entropy(net(a), torch.arange(N) % OUT)
        weights = list(net.parameters())
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for w, g in zip(weights, gradients, strict=True):
                w.sub_(0.5 * g)
        losses.append(float(loss.detach()))
    return losses


def test_a_shift_of_the_inputs_changes_nothing_of_training_and_only_the_statistics_path_does_that() -> None:
    still = torch.tensor(trajectory(0.0, "full"))
    assert_equal(torch.tensor(trajectory(3.0, "full")), still)
    cut = torch.tensor(trajectory(3.0, "direct"))
    assert_equal(cut[0], still[0])
    assert float((cut - still).abs().max()) > 1e-3


def test_the_bias_of_the_layer_before_has_no_gradient() -> None:
    before, layer = nn.Linear(D, OUT, dtype=torch.float64), BatchCenter1d(OUT, dtype=torch.float64)
    layer(before(off_centre(N, D))).sin().sum().backward()
    assert before.bias.grad is not None
    assert float(before.bias.grad.abs().max()) < 1e-13


def test_first_and_second_gradients_are_right() -> None:
    layer = BatchCenter1d(2, track_running_stats=False, dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x).square(), (x,))
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


@pytest.mark.parametrize("momentum", [0.1, 1, None])
def test_running_mean_and_evaluation_are_those_of_batch_norm_without_its_division(momentum: float | None) -> None:
    ours = BatchCenter2d(OUT, momentum, dtype=torch.float64)
    theirs = nn.BatchNorm2d(OUT, eps=1e-30, momentum=momentum, dtype=torch.float64)  # torch refuses eps = 0
    for _ in range(4):
        x = off_centre(6, OUT, 2, 3)
        spread = x.std((0, 2, 3), correction=0).view(-1, 1, 1)
        assert_equal(ours(x), theirs(x) * spread)
    assert_equal(ours.running_mean, theirs.running_mean)
    assert torch.equal(ours.num_batches_tracked, theirs.num_batches_tracked)
    assert_equal(ours.eval()(x), theirs.eval()(x) * (theirs.running_var + 1e-30).sqrt().view(-1, 1, 1))
    assert set(ours.state_dict()) == set(theirs.state_dict()) - {"weight", "running_var"}


def test_evaluation_moves_nothing_and_takes_single_samples() -> None:
    layer = BatchCenter1d(OUT)
    layer(torch.randn(N, OUT) + 1)
    state = copy.deepcopy(layer.eval().state_dict())
    x = torch.randn(1, OUT)
    assert torch.equal(layer(x), x - layer.running_mean)
    assert all(torch.equal(x, state[name]) for name, x in layer.state_dict().items())


def test_without_running_statistics_evaluation_centres_by_its_batch() -> None:
    layer = BatchCenter1d(OUT, track_running_stats=False, bias=False)
    x = torch.randn(N, OUT)
    assert torch.equal(layer.eval()(x), layer.train()(x))
    assert layer.state_dict() == {}


def test_a_sequence_is_centred_per_channel_over_samples_and_places() -> None:
    y = BatchCenter1d(OUT, dtype=torch.float64, bias=False)(off_centre(4, OUT, 6))
    assert float(y.mean((0, 2)).abs().max()) < 1e-14


def test_a_large_mean_does_not_swallow_the_bias() -> None:
    layer = BatchCenter1d(1)
    nn.init.constant_(layer.bias, 1e-3)
    assert layer(torch.tensor([[1e6], [1e6]])).flatten().tolist() == [torch.tensor(1e-3)] * 2


def test_half_precision_is_centred_by_a_mean_that_it_cannot_hold() -> None:
    x = torch.tensor([[256.0], [258.0]], dtype=torch.bfloat16)  # 257 is between two numbers of bfloat16
    y = BatchCenter1d(1)(x)
    assert y.dtype == torch.bfloat16
    assert y.flatten().tolist() == [-1, 1]


def test_the_mean_of_all_batches_is_kept_in_half_precision_as_well() -> None:
    layer = BatchCenter1d(1, None, dtype=torch.bfloat16)
    for value in (1.0, 3.0):
        layer(torch.full((2, 1), value, dtype=torch.bfloat16))
    assert layer.running_mean.tolist() == [2.0]


def test_channels_last_stays_channels_last() -> None:
    x = torch.randn(2, OUT, 4, 5).contiguous(memory_format=torch.channels_last)
    assert BatchCenter2d(OUT)(x).is_contiguous(memory_format=torch.channels_last)


def test_a_layer_made_without_memory_is_ready_after_reset_parameters() -> None:
    layer = BatchCenter1d(OUT, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    assert [x.abs().sum() for x in layer.state_dict().values()] == [0, 0, 0]


def test_a_copy_has_weights_and_buffers_of_its_own() -> None:
    layer = BatchCenter1d(OUT)
    twin = copy.deepcopy(layer)
    twin(torch.randn(N, OUT) + 1).sum().backward()
    assert layer.bias.grad is None
    assert float(layer.running_mean.abs().sum()) == 0
    assert repr(twin) == repr(layer)


def test_the_function_leaves_a_given_mean_as_it_is() -> None:
    x = torch.tensor([[1.0, 2.0]])
    assert batch_center(x, torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.0])).tolist() == [[0.5, 3.0]]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (BatchCenter1d(3), (4, 3, 2, 2), r"`x` must be \[N, C\] or \[N, C, L\] with C = 3 channels, found"),
        (BatchCenter1d(3), (4, 5), r"with C = 3 channels, found shape \(4, 5\)"),
        (BatchCenter2d(3), (4, 3), r"`x` must be \[N, C, H, W\] with C = 3"),
        (BatchCenter1d(3), (1, 3), r"must hold 2 values a channel to be centred, found shape \(1, 3\)"),
        (BatchCenter1d(3), (0, 3), "must hold 2 values a channel"),
        (BatchCenter1d(3, track_running_stats=False).eval(), (1, 3), "must hold 2 values a channel"),
    ],
)
def test_an_input_that_cannot_be_centred_is_refused(layer: nn.Module, shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        layer(torch.zeros(shape))


def test_a_single_image_has_places_to_centre_over() -> None:
    assert BatchCenter2d(1)(torch.tensor([[[[1.0, 3.0]]]])).flatten().tolist() == [-1, 1]


@pytest.mark.usefixtures("unchecked")
def test_a_path_of_no_meaning_is_refused_as_an_attribute_too() -> None:
    layer = BatchCenter1d(3)
    with pytest.raises(ValueError, match=r'`statistics` must be "full", or "direct" .* found .Direct.'):
        layer.statistics = "Direct"  # pyright: ignore[reportAttributeAccessIssue]
    assert layer.statistics == "full"


@pytest.mark.usefixtures("unchecked")
def test_settings_of_no_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="`momentum` must lie between 0 and 1"):
        BatchCenter1d(3, 1.5)
    with pytest.raises(ValueError, match=r'`statistics` must be "full", or "direct" .* found .batch.'):
        BatchCenter1d(3, statistics="batch")  # pyright: ignore[reportArgumentType]
