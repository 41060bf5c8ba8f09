"""Kernels run here on a GPU if there is one, and else in Triton's interpreter."""

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def without_gradients(no_gradients: None) -> None:
    """As the operators call them."""
