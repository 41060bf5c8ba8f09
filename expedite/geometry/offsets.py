"""Which row of a table over relative positions each pair of tokens reads."""

import torch
from torch import Tensor


def offset_index(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The row for each query and key of a grid, (H·W, H·W).

    Rows are the offsets of the query from the key in row-major order from (1-H, 1-W) on.

    Example:
        >>> offset_index(1, 3).tolist()
        [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    down = (rows[:, None] - rows + height - 1) * (2 * width - 1)  # (H, H)
    right = columns[:, None] - columns + width - 1  # (W, W)
    return (down[:, None, :, None] + right[None, :, None, :]).flatten(2).flatten(0, 1)


def offset_index_with_class(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The same with a class token first, (1 + H·W, 1 + H·W).

    Its rows come last: from the class token, to it, and from it to itself.

    Example:
        >>> offset_index_with_class(1, 2).tolist()
        [[5, 3, 3], [4, 1, 0], [4, 2, 1]]
    """
    end = (2 * height - 1) * (2 * width - 1)
    index = torch.full((1 + height * width, 1 + height * width), end + 1, device=device)
    index[0] = end
    index[0, 0] = end + 2
    index[1:, 1:] = offset_index(height, width, device)
    return index
