"""Blocks that are recalled: the same answers, fewer runs, and never those to another input."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.memory import Memory
from expedite.patching import patched
from tests.hosts import images, timm_vit

pytestmark = pytest.mark.usefixtures("no_gradients")


def counted(model: Any) -> list[int]:
    """The indices of blocks whose attention runs, as they run."""
    runs: list[int] = []
    for index, block in enumerate(model.blocks):
        block.attn.register_forward_hook(lambda *_, index=index: runs.append(index))
    return runs


def test_the_first_blocks_run_once() -> None:
    model = timm_vit()
    memory, runs = Memory(model.blocks), counted(model)
    with patched(model, alpha=2, keep=0.5):
        expected = model(images())
        runs.clear()
        for _ in range(2):
            with memory.of_first(2):
                assert torch.equal(model(images()), expected)
    assert runs == [0, 1, 2, 3, 2, 3]
    assert not any("forward" in vars(block) for block in model.blocks)


def test_an_input_that_ends_alike_is_another() -> None:
    model = timm_vit()
    memory = Memory(model.blocks)
    tokens = torch.randn(1, 65, 32)
    other = tokens.clone()
    other[:, 0] += 1
    with memory.of_first(1):
        assert not torch.equal(model.blocks[0](tokens), model.blocks[0](other))
        assert torch.equal(
            model.blocks[0](other), type(model.blocks[0]).forward(model.blocks[0], other)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_kept_between_runs(tmp_path: Path, dtype: torch.dtype) -> None:
    path, model, pictures = tmp_path / "new" / "kept.pt", timm_vit().to(dtype), images().to(dtype)
    first = Memory(model.blocks, path)
    with first.of_first(4):
        expected = model(pictures)
    first.save()
    again, runs = Memory(model.blocks, path), counted(model)
    with again.of_first(4):
        assert torch.equal(model(pictures), expected)
    assert not runs
