"""Where kernels run, and that with them the operators give what they give without."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from expedite.operators import assignment, clustering, kernels, kriging, relocation
from expedite.operators.clustering import cluster
from expedite.operators.kernels import blocks_of, fused, power_of_two
from expedite.operators.reconstruction import reconstruct
from expedite.patching import key_bias
from tests.operators.kernels.conftest import DEVICE


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Choose whether kernels run, whatever the device."""

    def choose(run: bool) -> None:
        for module in (assignment, clustering, kriging, relocation, key_bias):
            monkeypatch.setattr(module, "fused", lambda *tensors: run)

    return choose


@pytest.mark.parametrize("clusters", [(5, 7), (9, 4)])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_give_the_same(
    everywhere: Callable[[bool], None], clusters: tuple[int, int], delta: bool, dtype: torch.dtype
) -> None:
    smooth = F.interpolate(torch.randn(2, 70, 3, 3), size=(11, 10), mode="bilinear")
    tokens = (smooth.flatten(2).mT + 0.1 * torch.randn(2, 110, 70)).to(DEVICE, dtype)

    def run(with_kernels: bool) -> tuple[Tensor, Tensor]:
        everywhere(with_kernels)
        centroids, record = cluster(
            tokens, (11, 10), clusters, projection=16, hard=True, relocated=0.3
        )
        return centroids, reconstruct(centroids + centroids.sin(), record, delta=delta)

    near = 1e-3 if dtype == torch.float32 else 0.05
    for found, expected in zip(run(True), run(False), strict=True):
        assert found.dtype == expected.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=near, atol=near)


def test_attention_with_a_key_bias_is_that_with_its_mask(
    everywhere: Callable[[bool], None],
) -> None:
    everywhere(True)
    query, key, value = torch.randn(3, 2, 3, 70, 16, device=DEVICE).half()
    mask = torch.rand(2, 1, 1, 70, device=DEVICE).log()
    # A host's own code may cut it first.
    biased = key_bias.as_key_bias(mask.half())[..., :70]
    assert type(biased) is key_bias.KeyBias
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=biased)
    expected = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask=mask
    )
    assert type(found) is Tensor
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("width", "dtype", "rows", "more"),
    [
        (16, torch.bfloat16, 70, {}),
        (136, torch.bfloat16, 1, {}),
        (16, torch.float32, 1, {}),
        (16, torch.bfloat16, 1, {"enable_gqa": True}),
    ],
    ids=["a bias of pairs", "wide heads", "float32", "grouped queries"],
)
def test_what_the_kernel_does_not_take_stays_a_mask(
    everywhere: Callable[[bool], None],
    width: int,
    dtype: torch.dtype,
    rows: int,
    more: dict[str, bool],
) -> None:
    everywhere(True)
    query, key, value = torch.randn(3, 2, 3, 70, width, device=DEVICE, dtype=dtype)
    mask = torch.rand(2, 1, rows, 70, device=DEVICE, dtype=dtype)
    found = F.scaled_dot_product_attention(query, key, value, key_bias.as_key_bias(mask), **more)
    assert found.equal(F.scaled_dot_product_attention(query, key, value, mask, **more))


def test_what_autocast_is_yet_to_cast_stays_a_mask(everywhere: Callable[[bool], None]) -> None:
    everywhere(True)
    query, key, value = torch.randn(3, 2, 3, 70, 16, device=DEVICE)
    mask = torch.rand(2, 1, 1, 70, device=DEVICE, dtype=torch.bfloat16)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        found = F.scaled_dot_product_attention(
            query.bfloat16(), key, value, key_bias.as_key_bias(mask)
        )
        expected = F.scaled_dot_product_attention(query.bfloat16(), key, value, mask)
    assert found.equal(expected)


def test_on_a_cpu_no_kernels_run() -> None:
    assert not fused(torch.ones(3))
    assert type(key_bias.as_key_bias(torch.ones(2, 1, 1, 3))) is Tensor


def test_on_a_gpu_they_run_unless_something_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        tokens = torch.empty(2, 9, 4, device="cuda")
        assert fused(tokens, tokens.bfloat16())
        assert not fused(tokens, tokens.double())
        assert not fused(torch.empty(70_000, 1, device="cuda"))  # more programs than CUDA starts
        needs_gradients = tokens.clone().requires_grad_()
        assert fused(needs_gradients)
        with torch.enable_grad():
            assert not fused(tokens, needs_gradients)
        monkeypatch.setattr(kernels, "_has_tf32", lambda: False)
        assert not fused(tokens)
        monkeypatch.undo()
        monkeypatch.setattr(kernels, "HAS_TRITON", False)
        assert not fused(tokens)


@pytest.mark.parametrize(("count", "power"), [(1, 16), (16, 16), (17, 32), (64, 64), (100, 128)])
def test_powers_of_two(count: int, power: int) -> None:
    assert power_of_two(count) == power


def test_blocks() -> None:
    assert [blocks_of(count, 32) for count in (1, 32, 33, 64)] == [1, 1, 2, 2]
