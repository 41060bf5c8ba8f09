"""ViT-Adapter against the published code: tensors of its own, for weights drawn from a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from expedite import ExpediteError
from expedite.models.adapter_config import SIZES, AdapterConfig, for_detection, light
from expedite.models.adapter_segmenter import AdapterSegmenter, Head
from expedite.models.vit_adapter import ViTAdapter
from tests.models.drawn import draw_weights

# What czczup/ViT-Adapter at fd64a51 puts out for the images and weights made below, of the finest
# map every second row and column; its operator in the PyTorch form that it brings for tests.
REFERENCE = load_file(Path(__file__).parent / "reference" / "vit_adapter_reference.safetensors")

SMALL = AdapterConfig(
    24, heads=4, layers=4, adapter_heads=6, value_ratio=0.5, image_size=(48, 48), planes=8
)
WINDOWS = replace(for_detection(SMALL), layers=8, window=3)
BEIT = replace(SMALL, image_size=(64, 64), beit=True)
BEIT_WINDOWS = replace(SMALL, layers=8, beit=True, window=3, wide_window=6, vit_features="last")

pytestmark = pytest.mark.usefixtures("no_gradients")


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def drawn(config: AdapterConfig) -> ViTAdapter:
    model = ViTAdapter(config).eval()
    draw_weights(model.state_dict())
    return model


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "x"),
    [
        ("segmentation", SMALL, images()),
        ("light", light(SMALL), images()),
        ("detection", WINDOWS, images()),
        ("beit", BEIT, images(width=64)),
        ("beit-detection", BEIT_WINDOWS, images(96, 128)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equals_the_published_model(name: str, config: AdapterConfig, x: Tensor) -> None:
    first, *others = drawn(config)(x)
    close(first[..., ::2, ::2], REFERENCE[f"{name}.0"])
    for index, one in enumerate(others, start=1):
        close(one, REFERENCE[f"{name}.{index}"])


def test_every_part_equals_the_published_one() -> None:
    model, found = drawn(SMALL), dict[str, Tensor]()

    def note(name: str, pick: Any = lambda output: output) -> Any:
        return lambda module, args, output: found.update({name: pick(output)})

    for index in range(3):
        pick = lambda maps, index=index: maps[1 + index].flatten(2).mT  # noqa: E731
        model.spm.register_forward_hook(note(f"prior.{1 + index}", pick))
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(note(f"tokens.{index}"))
        last = [*model.interactions[index].modules()]
        extractor = [part for part in last if type(part).__name__ == "Extractor"][-1]
        extractor.register_forward_hook(note(f"spatial.{index}"))
    model(images())
    assert len(found) == 11
    for name, tensor in found.items():
        close(tensor, REFERENCE[f"segmentation.{name}"])


def millions(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("size", "vit", "adapter"),
    [("tiny", 5.5, 2.5), ("small", 21.7, 5.8), ("base", 85.8, 14.0), ("large", 303.3, 23.7)],
)
def test_parameters_of_table_10(size: str, vit: float, adapter: float) -> None:
    # The paper's B stores positions of 384 pixels, as its L, and sums are those of rounded numbers.
    side = 384 if size in ("base", "large") else 224
    with torch.device("meta"):
        model = ViTAdapter(replace(SIZES[size], image_size=(side, side)))
    assert round(millions(model), 1) == round(vit + adapter, 1)


@pytest.mark.parametrize(
    ("size", "head", "expected"),
    [
        ("tiny", "semantic-fpn", 12.2),
        ("small", "semantic-fpn", 31.9),
        ("base", "semantic-fpn", 104.6),
        ("large", "semantic-fpn", 332.0),
        ("large-light", "semantic-fpn", 324.3),
        ("tiny", "upernet", 36.1),
        ("small", "upernet", 57.6),
        ("base", "upernet", 133.9),
        ("large", "upernet", 363.8),
    ],
)
def test_parameters_of_table_3_and_of_the_slides(size: str, head: Head, expected: float) -> None:
    side = 224 if size in ("tiny", "small") else 384
    config = replace(SIZES[size], image_size=(side, side))
    with torch.device("meta"):
        model = AdapterSegmenter(ViTAdapter(config), config.width, 150, head)
    assert round(millions(model), 1) == expected


@pytest.mark.parametrize(("size", "slides"), [("base", 183), ("large", 473), ("large-light", 445)])
def test_multiply_adds_of_the_slides(size: str, slides: int) -> None:
    """Under Semantic FPN at 512×512, as PyTorch counts, which leaves out norms and sampling."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        AdapterSegmenter(ViTAdapter(SIZES[size]), SIZES[size].width, 150).eval()(
            torch.zeros(1, 3, 512, 512)
        )
    assert slides - 1 < counter.get_total_flops() / 2e9 < slides


def test_at_first_the_vit_is_left_alone() -> None:
    """γ is 0: what the spatial prior says does not reach the tokens."""
    model, seen = ViTAdapter(SMALL).eval(), list[Tensor]()
    model.blocks[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    model(images())
    for parameter in model.spm.parameters():
        parameter.add_(1.0)
    model(images())
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "heads=5 were asked of a ViT-Adapter for 24 channels"),
        ({"adapter_heads": 0}, "adapter_heads=0 were asked"),
        ({"interactions": 3}, "3 interactions were asked of a ViT-Adapter of 4 blocks"),
        ({"interactions": 2}, "vit_features='each' was asked .* 2 interactions"),
        ({"window": 7, "layers": 6, "interactions": 1, "vit_features": "last"}, "windows of 7"),
        ({"window": 7, "beit": True}, "7 and wide ones of None .* with relative position biases"),
        ({"window": 7, "wide_window": 28}, "7 and wide ones of 28 .* without relative"),
        ({"wide_window": 28, "beit": True}, "None and wide ones of 28"),
        ({"window": 7, "wide_window": 20, "beit": True}, "7 and wide ones of 20"),
    ],
)
def test_impossible_architectures(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        replace(SMALL, **changes)


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ExpediteError, match=r"images of 64×80; both sides must be multiples of 32"):
        ViTAdapter(SMALL)(images(width=80))
    with pytest.raises(ExpediteError, match=r"24 tokens were met by .* a grid of 4×4"):
        ViTAdapter(BEIT)(images())
