import pytest
import torch
import torch.nn.functional as F

from expedite.kernels.attention import widen
from tests.kernels.conftest import DEVICE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [8, 40, 64])
def test_products_of_wider_rows_hold_the_bias(dtype: torch.dtype, width: int) -> None:
    query, key = torch.randn(2, 2, 3, 70, width, device=DEVICE, dtype=dtype)
    bias = 20 * torch.rand(2, 1, 1, 70, device=DEVICE).log()
    swapped = query.transpose(1, 2).contiguous().transpose(1, 2)
    wide_query, wide_key = widen(swapped, key, bias, scale=0.5)
    assert wide_query.shape == wide_key.shape == (2, 3, 70, width + 8)
    expected = query.double() @ key.double().mT + 2 * bias.double()
    found = wide_query.double() @ wide_key.double().mT
    # Two parts of the bias are rounded twice as finely as one would be.
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-3)


def test_attention_is_that_with_a_mask() -> None:
    query, key, value = torch.randn(3, 2, 3, 70, 16, device=DEVICE).bfloat16()
    bias = torch.rand(2, 1, 1, 70, device=DEVICE).log()
    wide = widen(query, key, bias, scale=0.25)
    found = F.scaled_dot_product_attention(*wide, value, scale=0.25)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), bias)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
