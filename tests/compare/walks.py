"""Where an optimizer takes a weight, gradient by gradient."""

import pytest
import torch
from torch import Tensor

LOOP_OR_LIST = pytest.mark.parametrize("foreach", [False, True])


def walked(rule: type, gradients: Tensor, start: Tensor | float, **settings: object) -> Tensor:
    """Where a weight that begins at `start` is after each gradient."""
    weight = torch.nn.Parameter(torch.zeros_like(gradients[0]) + start)
    optimizer = rule([weight], **settings)
    places = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        places.append(weight.detach().clone())
    return torch.stack(places)
