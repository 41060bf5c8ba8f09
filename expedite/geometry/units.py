"""The order of tokens in which Hiera keeps mask units together.

Again and again the tokens of a map are dealt out to as many smaller maps as neighbours are pooled,
so that pooling takes those that stand at the same place of each.
"""

import torch
from torch import Tensor

from expedite.geometry.constants import remembered


@remembered
def unit_order(
    height: int, width: int, steps: int, rows: int, columns: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which token of a map stands where in that order, and which place each token has.

    Args:
        height: Of the map.
        width: Likewise.
        steps: How often tokens are dealt out.
        rows: Neighbours that are dealt out each time, along each side.
        columns: Likewise.
        device: Where to put the result.

    Returns:
        Two tensors (H·W,) of indices, each the other's inverse.

    Example:
        >>> unit_order(2, 4, 1, 2, 2, torch.device("cpu"))[0].tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    order = torch.arange(height * width, device=device).reshape(1, height, width)
    for _ in range(steps):
        _, height, width = order.shape
        order = order.reshape(-1, height // rows, rows, width // columns, columns)
        order = order.permute(0, 2, 4, 1, 3).flatten(0, 2)
    order = order.flatten()
    return order, order.argsort()
