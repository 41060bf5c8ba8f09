"""Weights drawn from a seed, so that reference tensors need none stored beside them."""

import torch
from torch import Tensor


def draw_weights(state: dict[str, Tensor]) -> None:
    """The same numbers for the same names, of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in sorted(state.items()):
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.1 * noise.abs())
        elif tensor.dim() == 1:
            tensor.copy_(float(name.endswith("weight")) + 0.1 * noise)
        else:
            tensor.copy_(noise * tensor[0].numel() ** -0.5)
