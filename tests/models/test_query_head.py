"""Mask2Former's head against the published code, for weights by its names drawn from a seed."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from expedite import ExpediteError
from expedite.models.adapter_config import SIZES as ADAPTER_SIZES
from expedite.models.adapter_files import VARIANTS, Variant
from expedite.models.query_head import QueryHead, QuerySizes, sizes_of, translate
from tests.models.drawn import draw_weights

# What `Mask2FormerHead` of czczup/ViT-Adapter at fd64a51, on mmcv 1.7.2, makes of the maps and
# weights below; of large maps, some rows, columns and channels.
REFERENCE = load_file(Path(__file__).parent / "reference" / "query_head_reference.safetensors")

WIDTH, HIDDEN, CLASSES = 24, 64, 3
SIZES = QuerySizes(queries=5, heads=2, pixel_layers=2, pixel_hidden=48, layers=4, layer_hidden=40)

pytestmark = pytest.mark.usefixtures("no_gradients")


def published_shapes(
    width: int = WIDTH, hidden: int = HIDDEN, classes: int = CLASSES, sizes: QuerySizes = SIZES
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The published names and shapes."""
    for level in range(3):
        yield from layer(f"pixel_decoder.input_convs.{level}.conv", hidden, width, 1, 1)
        yield from layer(f"pixel_decoder.input_convs.{level}.gn", hidden)
    for index in range(sizes.pixel_layers):
        one = f"pixel_decoder.encoder.layers.{index}"
        yield from layer(f"{one}.attentions.0.sampling_offsets", sizes.heads * 24, hidden)
        yield from layer(f"{one}.attentions.0.attention_weights", sizes.heads * 12, hidden)
        yield from layer(f"{one}.attentions.0.value_proj", hidden, hidden)
        yield from layer(f"{one}.attentions.0.output_proj", hidden, hidden)
        yield from perceptron(one, hidden, sizes.pixel_hidden)
        yield from (pair for n in range(2) for pair in layer(f"{one}.norms.{n}", hidden))
    yield "pixel_decoder.level_encoding.weight", (3, hidden)
    for part, *shape in (("lateral", hidden, width, 1, 1), ("output", hidden, hidden, 3, 3)):
        yield f"pixel_decoder.{part}_convs.0.conv.weight", tuple(shape)
        yield from layer(f"pixel_decoder.{part}_convs.0.gn", hidden)
    yield from layer("pixel_decoder.mask_feature", hidden, hidden, 1, 1)
    for index in range(sizes.layers):
        one = f"transformer_decoder.layers.{index}"
        for n in range(2):
            yield f"{one}.attentions.{n}.attn.in_proj_weight", (3 * hidden, hidden)
            yield f"{one}.attentions.{n}.attn.in_proj_bias", (3 * hidden,)
            yield from layer(f"{one}.attentions.{n}.attn.out_proj", hidden, hidden)
        yield from perceptron(one, hidden, sizes.layer_hidden)
        yield from (pair for n in range(3) for pair in layer(f"{one}.norms.{n}", hidden))
    yield from layer("transformer_decoder.post_norm", hidden)
    for name in ("query_embed", "query_feat"):
        yield f"{name}.weight", (sizes.queries, hidden)
    yield "level_embed.weight", (3, hidden)
    yield from layer("cls_embed", classes + 1, hidden)
    yield from (pair for n in (0, 2, 4) for pair in layer(f"mask_embed.{n}", hidden, hidden))


def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def perceptron(name: str, hidden: int, inside: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from layer(f"{name}.ffns.0.layers.0.0", inside, hidden)
    yield from layer(f"{name}.ffns.0.layers.1", hidden, inside)


def published_weights(**changes: Any) -> dict[str, Tensor]:
    """Drawn weights by the published names, which begin with `decode_head.`."""
    state = {name: torch.zeros(shape) for name, shape in published_shapes(**changes)}
    draw_weights(state)
    for name, tensor in state.items():
        if name.endswith("sampling_offsets.bias"):  # so that places lie cells apart
            tensor.mul_(20)
    return {f"decode_head.{name}": tensor for name, tensor in state.items()}


def head() -> QueryHead:
    state = translate(published_weights(), "decode_head.")
    model = QueryHead(CLASSES, WIDTH, HIDDEN, SIZES).eval()
    model.load_state_dict({k.removeprefix("decode_head."): x for k, x in state.items()})
    return model


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (16, 24), (8, 12), (4, 6), (2, 3)
    return [torch.randn(2, WIDTH, *size, generator=generator) for size in sizes]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_every_part_equals_the_published_one() -> None:
    model = head()
    pixels = model.pixel_decoder(maps())
    close(pixels.mask_features[:, ::4, ::2, ::2], REFERENCE["mask_features"])
    for index, memory in enumerate(pixels.multi_scale_features):
        close(memory[:, ::4], REFERENCE[f"memory.{index}"])
    found = model.transformer(pixels.multi_scale_features, pixels.mask_features)
    assert len(found.masks_queries_logits) == 1 + SIZES.layers
    for index, masks in enumerate(found.masks_queries_logits):
        close(masks[:, :, ::4, ::4], REFERENCE[f"masks.{index}"])
    queries = found.intermediate_hidden_states[-1].transpose(0, 1)
    close(model.class_predictor(queries), REFERENCE["classes"])
    close(model(maps()), REFERENCE["scores"])


def test_weights_tell_sizes() -> None:
    assert sizes_of(published_weights(), "decode_head.") == SIZES


def test_only_the_head_is_renamed() -> None:
    state = {"backbone.level_embed.weight": torch.zeros(1), "decode_head.extra": torch.zeros(1)}
    assert translate(state, "decode_head.") == state


BEIT_B = replace(ADAPTER_SIZES["base"], beit=True, image_size=(512, 512))
BEIT_L_896 = replace(ADAPTER_SIZES["beit-large"], image_size=(896, 896))
LARGE = VARIANTS["beit-large-mask2former"].queries or SIZES


@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        (VARIANTS["beit-large-mask2former"], 568),
        (
            replace(
                VARIANTS["beit-large-mask2former"],
                config=BEIT_L_896,
                queries=replace(LARGE, queries=200),
            ),
            571,
        ),
        (Variant(BEIT_B, "mask2former", n_cls=171), 120),
    ],
)
def test_parameters_of_the_published_models(variant: Variant, millions: int) -> None:
    with torch.device("meta"):
        model = variant.build()
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize(("hidden", "heads"), [(48, 2), (64, 3), (0, 1)])
def test_channels_that_cannot_be_shared_out(hidden: int, heads: int) -> None:
    with pytest.raises(ExpediteError, match=rf"{hidden} channels and {heads} heads were asked"):
        QueryHead(CLASSES, WIDTH, hidden, QuerySizes(heads=heads))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExpediteError, match=r"transformers; pip install 'expedite-vit\[hf\]'"):
        QueryHead(CLASSES, WIDTH, HIDDEN, SIZES)
