"""The layers that multiply their input with a matrix, and the rows that they multiply it with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from truestep.core._names import bare, unwrapped

Layer = nn.Linear | nn.Conv2d


def layers(model: nn.Module) -> dict[str, Layer]:
    """Linear and Conv2d layers by the name they have in the bare model; a shared one stands once.

    Example:
        >>> list(layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))))
        ['0', '3']
    """
    modules = unwrapped(model).named_modules()
    return {bare(name): module for name, module in modules if isinstance(module, Layer)}


def rows_of(module: Layer, x: Float[Tensor, "..."]) -> Float[Tensor, "rows features"]:
    r"""What each output of the layer is the product of: :math:`s = W a + b`, one row :math:`a` an output position.

    For Linear every leading dimension is a row. For Conv2d a row is a patch under the layer's own stride, dilation and
    padding, in the order of `weight.flatten(1)`. Differentiable, in the dtype of `x`.

    Args:
        module: The layer; a convolution of one group (`grouped_rows` takes the others).
        x: Its input, batched or not.

    Raises:
        ValueError: If it is a convolution of several groups: they multiply different rows.

    Example:
        >>> import torch
        >>> conv, x = nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.randn(5, 3, 7, 7)
        >>> rows = rows_of(conv, x)
        >>> out = rows @ conv.weight.flatten(1).T + conv.bias
        >>> torch.allclose(out.view(5, 4, 4, 4), conv(x).movedim(1, -1), atol=1e-5)
        True
    """
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        msg = f"`module` must be a convolution of one group, found {module.groups}; take `grouped_rows`"
        raise ValueError(msg)
    return grouped_rows(module, x)[0]


def grouped_rows(module: Layer, x: Float[Tensor, "..."]) -> Float[Tensor, "groups rows features"]:
    """`rows_of` for every group of a convolution; one group for all other layers."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, module.in_features)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(x if x.dim() == 4 else x[None], _padding(module), mode)
    patches = functional.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
    samples, width, places = patches.shape
    features = width // module.groups
    by_group = patches.view(samples, module.groups, features, places).permute(1, 0, 3, 2)
    return by_group.reshape(module.groups, samples * places, features)


def delta_rows(module: Layer, grad_output: Float[Tensor, "..."]) -> Float[Tensor, "rows out"]:
    """The layer's output, or the gradient there, with the rows in the order of `rows_of`.

    The gradient of the weight is then `delta.T @ rows`, that of the bias `delta.sum(0)`.
    """
    if isinstance(module, nn.Linear):
        return grad_output.reshape(-1, module.out_features)
    return grad_output.movedim(-3, -1).reshape(-1, module.out_channels)


def grouped_delta_rows(module: Layer, grad_output: Float[Tensor, "..."]) -> Float[Tensor, "groups rows out_per_group"]:
    """`delta_rows` for every group of a convolution, as `grouped_rows` has them; one group for all other layers."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    delta = delta_rows(module, grad_output)
    return delta.reshape(delta.shape[0], groups, delta.shape[1] // groups).transpose(0, 1)


def _padding(module: nn.Conv2d) -> list[int]:
    """Padding as F.pad takes it: left, right, top, bottom. "same" puts the odd one to the right and below."""
    pads: list[int] = []
    for axis in (1, 0):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            pads += [total // 2, total - total // 2]
        else:
            both = 0 if isinstance(module.padding, str) else module.padding[axis]
            pads += [both, both]
    return pads
