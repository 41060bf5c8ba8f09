"""The reference tensors were made with the published code, rstrudel/segmenter at 20d1bfa.

Weights and images are drawn from NumPy's frozen legacy generator, so nothing else is stored.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from expedite.errors import ExpediteError
from expedite.models.segmenter import Segmenter, SegmenterConfig
from expedite.models.sliding import sliding_window

REFERENCE = load_file(Path(__file__).parent / "reference" / "segmenter.safetensors")


def published(**changes: object) -> Segmenter:
    arguments = {"image_size": (32, 32), "patch_size": 8, "d_model": 64, "n_heads": 2}
    model = Segmenter(SegmenterConfig(**{**arguments, "n_layers": 3, "n_cls": 5, **changes}))  # type: ignore[arg-type]
    generator = np.random.RandomState(0)
    state = model.state_dict()
    for name in sorted(state):
        values = generator.standard_normal(state[name].shape) * 0.2
        if "norm" in name and name.endswith("weight"):
            values = 1 + values
        state[name] = torch.from_numpy(values).float()
    model.load_state_dict(state)
    return model.eval()


def image(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal(shape)).float()


@pytest.mark.parametrize(
    ("name", "changes", "shape"),
    [
        ("mask_square", {}, (2, 3, 32, 32)),
        ("mask_padded", {}, (1, 3, 43, 58)),  # padding and interpolated positions
        ("distilled", {"distilled": True}, (2, 3, 32, 48)),
        ("linear", {"decoder": "linear"}, (1, 3, 40, 40)),
    ],
)
def test_equals_the_published_model(
    name: str, changes: dict[str, object], shape: tuple[int, ...]
) -> None:
    with torch.inference_mode():
        scores = published(**changes)(image(*shape))
    torch.testing.assert_close(scores, REFERENCE[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [("sliding", (3, 50, 90), (60, 100)), ("sliding_small", (3, 20, 70), (20, 70))],
)
def test_sliding_windows_equal_the_published_inference(
    name: str, shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    with torch.inference_mode():
        probabilities = sliding_window(published(), image(*shape), (32, 32), 24, size)
    torch.testing.assert_close(probabilities, REFERENCE[name], rtol=1e-4, atol=2e-5)


def test_as_many_patches_in_another_grid_keep_their_positions_as_they_lie() -> None:
    """16×64 pixels are 2×8 patches, as many as the 4×4 that the positions are of."""
    model = published()
    seen: list[Tensor] = []
    model.encoder.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(args[0]))
    wide = image(1, 3, 16, 64)
    with torch.inference_mode():
        model(wide)
        patches = model.encoder.patch_embed.proj(wide).flatten(2).mT
    torch.testing.assert_close(seen[0][:, 1:], patches + model.encoder.pos_embed[:, 1:])


def test_attention_mask_of_minus_infinity_hides_a_token() -> None:
    model = published()
    block, tokens = model.encoder.blocks[0], torch.randn(1, 6, 64)
    mask = torch.zeros(1, 1, 1, 6)
    mask[..., -1] = -torch.inf
    torch.testing.assert_close(block(tokens, mask)[:, :5], block(tokens[:, :5]))


def test_refuses_sizes_that_patches_do_not_divide() -> None:
    with pytest.raises(ExpediteError, match="multiples of the patch size"):
        SegmenterConfig((30, 32), 8, 64, 1, 2, 5)


def test_refuses_widths_that_heads_do_not_divide() -> None:
    with pytest.raises(ExpediteError, match="multiple of the heads"):
        Segmenter(SegmenterConfig((32, 32), 8, 64, 3, 2, 5))
