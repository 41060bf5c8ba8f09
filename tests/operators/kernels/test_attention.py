import pytest
import torch
import torch.nn.functional as F

from expedite.operators.kernels.attention import attend
from tests.operators.kernels.conftest import DEVICE

# Triton's interpreter has no products of bfloat16.
DTYPES = [torch.float16, torch.bfloat16] if DEVICE.type == "cuda" else [torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 40, 64, 128])
@pytest.mark.parametrize(("tokens", "keys"), [(70, 70), (1, 128), (65, 145), (3, 1)])
def test_attention_is_that_with_a_mask(
    dtype: torch.dtype, width: int, tokens: int, keys: int
) -> None:
    query, key, value = (
        torch.randn(2, count, 3, width, device=DEVICE, dtype=dtype).transpose(1, 2)
        for count in (tokens, keys, keys)
    )
    bias = 5 * torch.rand(2, 1, 1, keys, device=DEVICE).log()
    found = attend(query, key, value, bias, scale=0.25)
    expected = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), bias.double(), scale=0.25
    )
    near = 2e-3 if dtype == torch.float16 else 2e-2
    torch.testing.assert_close(found.double(), expected, rtol=near, atol=near)
    assert found.dtype == dtype
    # Hosts join heads next, which copies nothing.
    assert found.transpose(1, 2).is_contiguous()


def test_packed_queries_keys_and_values_are_read_where_they_are() -> None:
    packed = torch.randn(2, 50, 3, 4, 16, device=DEVICE).half().permute(2, 0, 3, 1, 4)
    bias = torch.zeros(2, 1, 1, 50, device=DEVICE)
    query, key, value = packed
    found = attend(query, key, value, bias, scale=0.25)
    query, key, value = packed.contiguous()
    assert found.equal(attend(query, key, value, bias, scale=0.25))
    expected = F.scaled_dot_product_attention(*packed.float())
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_keys_of_no_mass_count_for_nothing() -> None:
    query, key, value = torch.randn(3, 1, 2, 300, 16, device=DEVICE).half()
    bias = torch.zeros(1, 1, 1, 300, device=DEVICE)
    bias[..., :130] = float("-inf")  # the whole first block of keys too
    found = attend(query, key, value, bias, scale=0.25)
    expected = attend(query, key[:, :, 130:], value[:, :, 130:], bias[..., 130:], scale=0.25)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
