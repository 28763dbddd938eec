from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from truestep.conditioning._layers import delta_rows, grouped_delta_rows, grouped_rows, layers, rows_of

CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"kernel_size": (2, 4), "padding": "same"},
    {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "valid", "bias": False},
    *(
        {"kernel_size": (3, 4), "padding": padding, "padding_mode": mode}
        for padding, mode in product([(1, 2), "same"], ["reflect", "replicate", "circular"])
    ),
]


def assert_rows_give_output_and_gradients(module: nn.Linear | nn.Conv2d, x: Tensor) -> None:
    """Rows times the weight is the output; deltas times rows is the gradient of the weight, their sum the bias's."""
    out = module(x)
    grad = torch.randn_like(out)
    out.backward(grad)
    rows, deltas = grouped_rows(module, x), grouped_delta_rows(module, grad)
    weight = module.weight.detach()
    assert module.weight.grad is not None
    weight, weight_grad = (
        w.view(rows.shape[0], -1, rows.shape[-1]) for w in (weight.flatten(1), module.weight.grad.flatten(1))
    )
    expected = out.detach() if module.bias is None else out.detach() - _as_channels(module.bias.detach(), module, out)
    torch.testing.assert_close(rows @ weight.mT, grouped_delta_rows(module, expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(deltas.mT @ rows, weight_grad, rtol=0, atol=1e-12)
    if module.bias is not None:
        torch.testing.assert_close(delta_rows(module, grad).sum(0), module.bias.grad, rtol=0, atol=1e-12)


def _as_channels(bias: Tensor, module: nn.Module, out: Tensor) -> Tensor:
    return bias if isinstance(module, nn.Linear) else bias[:, None, None].expand(out.shape[-3:])


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (2, 0, 4)])
def test_rows_of_linear_are_all_leading_dimensions(shape: tuple[int, ...]) -> None:
    assert_rows_give_output_and_gradients(nn.Linear(4, 3).double(), torch.randn(shape, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("settings", CONVS, ids=str)
def test_rows_of_a_convolution_are_the_patches_that_it_sees(settings: dict[str, Any], groups: int) -> None:
    module = nn.Conv2d(4, 8, groups=groups, **settings).double()
    assert_rows_give_output_and_gradients(module, torch.randn(2, 4, 7, 9, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2])
def test_an_empty_batch_has_no_rows(groups: int) -> None:
    module = nn.Conv2d(4, 6, (2, 3), groups=groups)
    assert grouped_rows(module, torch.zeros(0, 4, 5, 5)).shape == (groups, 0, 4 // groups * 6)
    assert grouped_delta_rows(module, torch.zeros(0, 6, 4, 3)).shape == (groups, 0, 6 // groups)


def test_a_single_image_has_rows_too() -> None:
    module = nn.Conv2d(2, 3, 3, padding=1).double()
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    assert_rows_give_output_and_gradients(module, x)
    torch.testing.assert_close(rows_of(module, x), rows_of(module, x[None]), rtol=0, atol=0)


def test_rows_in_any_memory_format_are_the_same() -> None:
    module, x = nn.Conv2d(4, 3, 3, padding="same"), torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(rows_of(module, x.contiguous(memory_format=torch.channels_last)), rows_of(module, x))
    grad = torch.randn(2, 3, 6, 5)
    assert delta_rows(module, grad.contiguous(memory_format=torch.channels_last)).equal(delta_rows(module, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_keep_the_number_format(dtype: torch.dtype) -> None:
    assert rows_of(nn.Conv2d(1, 1, 2), torch.randn(1, 1, 3, 3).to(dtype)).dtype == dtype


def test_groups_do_not_share_rows() -> None:
    with pytest.raises(ValueError, match="`module` must be a convolution of one group, found 2; take `grouped_rows`"):
        rows_of(nn.Conv2d(4, 4, 1, groups=2), torch.randn(1, 4, 2, 2))


def test_layers_have_the_names_of_the_bare_model() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.BatchNorm1d(2), shared, nn.ConvTranspose2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    assert list(layers(model)) == ["0", "4"]
    assert layers(nn.DataParallel(model)) == layers(model) == layers(torch.compile(model, backend="eager"))
