from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.comparators.tome import soft_matching
from tests.hosts import huggingface_vit, images, open_frames, segmenter, timm_eva, timm_vit

pytestmark = pytest.mark.usefixtures("no_gradients")


def around(part: torch.nn.Module, tokens: Tensor, count: int) -> Tensor:
    """A part of a block on merged tokens (B, 1 + N, C), copied back, one image after the other."""
    outputs = []
    for one in tokens:
        group = soft_matching(one[None, 1:], torch.ones(1, len(one) - 1), count, 1)[0]
        means = [one[1:][group == n].mean(0) for n in range(count)]
        output = part(torch.stack([one[0], *means])[None])[0]
        outputs.append(torch.cat([output[:1], output[1:][group]]))
    return torch.stack(outputs)


def test_both_parts_of_a_block_run_on_merged_tokens() -> None:
    model: Any = segmenter()
    tokens = torch.randn(2, 65, 64)
    block = model.encoder.blocks[3]
    seen: list[Tensor] = []
    expected = tokens + around(block.attn, block.norm1(tokens), 16)
    expected = expected + around(block.mlp, block.norm2(expected), 16)
    expedite.patch(model, plan_of("tome-blocks", 3, 4))
    block.register_forward_pre_hook(lambda module, args: (tokens,))
    block.register_forward_hook(lambda module, args, output: seen.append(output))
    model(images())
    torch.testing.assert_close(seen[0], expected)
    assert open_frames(model) == 0


@pytest.mark.parametrize("make", [timm_vit, huggingface_vit])
def test_other_hosts(make: type) -> None:
    model = make()
    before = model(images())
    after = expedite.patch(model, plan_of("tome-blocks", 1, 4))(images())
    assert after.shape == before.shape
    assert not torch.allclose(after, before)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ExpediteError, match="log_mass=False works"):
        expedite.patch(segmenter(), replace(plan_of("tome-blocks", 1, 4), log_mass=True))
    with pytest.raises(ExpediteError, match="positions, which cover the full grid"):
        expedite.patch(timm_eva(), plan_of("tome-blocks", 1, 4))(images())
