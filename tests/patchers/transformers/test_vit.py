"""Models of transformers, made from their configs: taps, recorders, heads, pipelines."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.operators import clustering
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct
from expedite.patchers.transformers.vit import OLDEST
from tests.hosts import counted_reconstructions, images, randomized
from tests.oracles import RELOCATED, normalized
from tests.patching.test_oracles import HARD, blocky

# Its configs take what their annotations do not show.
hf: Any = transformers
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT: dict[str, Any] = {**SIZE, "intermediate_size": 64, "image_size": 32, "patch_size": 4}
DINO: dict[str, Any] = {**SIZE, "mlp_ratio": 2, "image_size": 32, "patch_size": 4}
DINO_3: dict[str, Any] = {**VIT, "num_register_tokens": 2}
NECK: dict[str, Any] = {"neck_hidden_sizes": [16] * 4, "fusion_hidden_size": 16}
FACTORS = {"reassemble_factors": [4, 2, 1, 0.5]}
BEIT: dict[str, Any] = {**VIT, "use_relative_position_bias": True}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
DPT: dict[str, Any] = {**VIT, **NECK, **FACTORS, "backbone_out_indices": [0, 1, 2, 3]}


def depth_anything() -> Any:
    backbone = hf.Dinov2Config(**DINO, out_features=STAGES, reshape_hidden_states=False)
    # Metric depth ends in a sigmoid: relative depth of random weights is cut off at 0 everywhere.
    metric = {"depth_estimation_type": "metric", "max_depth": 10}
    sizes = {"reassemble_hidden_size": 32, "patch_size": 4}
    config = hf.DepthAnythingConfig(backbone_config=backbone, **sizes, **metric, **NECK, **FACTORS)
    return hf.DepthAnythingForDepthEstimation(config)


def upernet(backbone: Any) -> Any:
    heads = {"hidden_size": 32, "auxiliary_in_channels": 32, "pool_scales": [1, 2]}
    config = hf.UperNetConfig(backbone_config=backbone, **heads, auxiliary_channels=8)
    return hf.UperNetForSemanticSegmentation(config)


def hybrid() -> Any:
    convolutions = hf.BitConfig(
        global_padding="same",
        depths=[1, 1, 1],
        hidden_sizes=[8, 16, 32],
        embedding_size=8,
        num_groups=4,
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    sizes = {"image_size": 128, "patch_size": 16, "neck_hidden_sizes": [8, 16, 16, 16]}
    config = hf.DPTConfig(
        **{**DPT, **sizes},
        is_hybrid=True,
        readout_type="project",
        neck_ignore_stages=[0, 1],
        backbone_featmap_shape=[1, 32, 8, 8],
        backbone_config=convolutions,
    )
    return hf.DPTForDepthEstimation(config)


def beit_segmenter() -> Any:
    # Its indices count from one, the embedding's: it reads all blocks but the last of five.
    sizes = {**BEIT, "num_hidden_layers": 5, "out_indices": [2, 3, 4, 5]}
    heads = {"pool_scales": [1, 2], "auxiliary_channels": 8}
    return hf.BeitForSemanticSegmentation(hf.BeitConfig(**sizes, **heads))


def data2vec_segmenter() -> Any:
    sizes = {**BEIT, "num_hidden_layers": 5, "out_indices": [2, 3, 4, 5]}
    heads = {"pool_scales": [1, 2], "auxiliary_channels": 8}
    return hf.Data2VecVisionForSemanticSegmentation(hf.Data2VecVisionConfig(**sizes, **heads))


def flat_beit() -> Any:
    """What a BEiT under DPT's neck is made from: feature maps with the class token, as tokens."""
    return hf.BeitConfig(**BEIT, out_features=STAGES, reshape_hidden_states=False)


def dpt_of_beit() -> Any:
    sizes = {**NECK, **FACTORS, "backbone_out_indices": [0, 1, 2, 3]}
    return hf.DPTForDepthEstimation(hf.DPTConfig(backbone_config=flat_beit(), **sizes))


def zoedepth() -> Any:
    heads = {"bottleneck_features": 16, "num_attractors": [4, 2, 2, 1], "bin_embedding_dim": 8}
    bins = [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}]
    config = hf.ZoeDepthConfig(
        backbone_config=flat_beit(), **NECK, **FACTORS, **heads, bin_configurations=bins
    )
    return hf.ZoeDepthForDepthEstimation(config)


# With the number of grids that a call reconstructs at alpha=1: none for a class token.
MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "ViT classifier": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT)), 0),
    "DeiT": (lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**VIT)), 0),
    "ViT": (lambda: hf.ViTModel(hf.ViTConfig(**VIT)), 1),
    "DINOv2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO)), 1),
    "DINOv2 classifier": (lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO)), 1),
    "DINOv2 registers": (
        lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)
        ),
        1,
    ),
    "DINOv3": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**DINO_3)), 1),
    "DINOv3 backbone": (
        lambda: hf.DINOv3ViTBackbone(hf.DINOv3ViTConfig(**DINO_3, out_features=["stage2"])),
        2,  # the last is always read
    ),
    "DINOv2 backbone": (
        lambda: hf.Dinov2Backbone(hf.Dinov2Config(**DINO, out_features=["stage1", "stage3"])),
        1,
    ),
    "DPT depth": (lambda: hf.DPTForDepthEstimation(hf.DPTConfig(**DPT)), 3),
    "DPT segmentation": (lambda: hf.DPTForSemanticSegmentation(hf.DPTConfig(**DPT)), 3),
    "DPT hybrid": (hybrid, 2),
    "Depth Anything": (depth_anything, 3),
    "UperNet": (
        lambda: upernet(hf.Dinov2Config(**DINO, out_features=["stage1", "stage3", "stage4"])),
        2,
    ),
    "BEiT": (lambda: hf.BeitModel(hf.BeitConfig(**BEIT)), 1),
    "BEiT, shared bias": (
        lambda: hf.BeitModel(hf.BeitConfig(**VIT, use_shared_relative_position_bias=True)),
        1,
    ),
    "BEiT classifier": (lambda: hf.BeitForImageClassification(hf.BeitConfig(**BEIT)), 0),
    "BEiT class token": (
        lambda: hf.BeitForImageClassification(hf.BeitConfig(**BEIT, use_mean_pooling=False)),
        0,
    ),
    "BEiT segmentation": (beit_segmenter, 3),
    "BEiT backbone": (lambda: hf.BeitBackbone(hf.BeitConfig(**BEIT, out_features=STAGES)), 3),
    "Data2Vec": (lambda: hf.Data2VecVisionModel(hf.Data2VecVisionConfig(**BEIT)), 1),
    "Data2Vec, shared bias": (
        lambda: hf.Data2VecVisionModel(
            hf.Data2VecVisionConfig(**VIT, use_shared_relative_position_bias=True)
        ),
        1,
    ),
    "Data2Vec segmentation": (data2vec_segmenter, 3),
    "UperNet of BEiT": (
        lambda: upernet(hf.BeitConfig(**BEIT, out_features=["stage1", "stage3", "stage4"])),
        2,
    ),
    "DPT of BEiT": (dpt_of_beit, 3),
    "ZoeDepth": (zoedepth, 3),
}
names = pytest.mark.parametrize("name", list(MODELS))


pytestmark = pytest.mark.usefixtures("no_gradients")


def made(name: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    side = 128 if name == "DPT hybrid" else 32
    return randomized(MODELS[name][0]()), images(2, side, side)


def tensors(output: Any) -> list[Tensor]:
    flat: list[Tensor] = []
    for value in output.to_tuple():
        flat.extend([value] if isinstance(value, Tensor) else value)
    return flat


@names
def test_patches_and_returns_to_what_it_was(name: str) -> None:
    model, x = made(name)
    plain = tensors(model(x))
    expedite.patch(model, alpha=1, clusters=4)
    with counted_reconstructions(model) as calls:
        patched = tensors(model(x))
    assert [t.shape for t in patched] == [t.shape for t in plain]
    assert not torch.allclose(patched[-1], plain[-1], rtol=1e-3, atol=1e-3)
    assert len(calls) == MODELS[name][1]
    assert all(map(torch.equal, tensors(expedite.unpatch(model)(x)), plain))


@names
@pytest.mark.parametrize("recorded_before", [True, False])
def test_every_hidden_state_has_the_full_grid(name: str, recorded_before: bool) -> None:
    model, x = made(name)
    # Recorders are installed by the first call that asks for states, and stay.
    plain = model(x, output_hidden_states=True).hidden_states if recorded_before else None
    expedite.patch(model, alpha=2, clusters=4)
    states = model(x, output_hidden_states=True).hidden_states
    assert len({state.shape for state in states}) == 1
    assert len(states) == 1 + expedite.describe(model).blocks
    if plain is not None:
        assert all(torch.equal(a, b) for a, b in zip(states[:3], plain[:3], strict=True))
        assert not torch.allclose(states[3], plain[3], rtol=1e-3, atol=1e-3)


@names
def test_the_full_grid_without_the_shortcut_equals_the_plain_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = made(name)
    plain = tensors(model(x))
    monkeypatch.setattr(clustering, "_keeps_every_token", lambda grid, clusters: False)
    for alpha, beta in ((0, None), (1, 2)):
        expedite.patch(model, alpha=alpha, beta=beta, clusters=8, **HARD)
        for found, expected in zip(tensors(model(x)), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["ViT", "DINOv2", "DINOv2 registers"])
def test_cells_of_equal_tokens_cluster_without_loss(name: str) -> None:
    model, _ = made(name)
    for path, parameter in model.named_parameters():
        if path.endswith("position_embeddings"):
            parameter.zero_()
    x = blocky(images(), 4)
    plain = model(x).last_hidden_state
    expedite.patch(model, alpha=1, clusters=4, **HARD)
    torch.testing.assert_close(model(x).last_hidden_state, plain, rtol=1e-3, atol=1e-3)


def test_taps_equal_the_operators_by_hand() -> None:
    model, x = made("DPT depth")
    embedded = model.dpt.embeddings(x).last_hidden_states
    layers = model.dpt.encoder.layer
    tokens = layers[0](embedded)
    body = tokens[:, 1:]
    centroids, record = cluster(body, (8, 8), (4, 5), features=normalized(body), **RELOCATED)
    mask = torch.cat([torch.zeros(2, 1), record.mass.log()], 1)[:, None, None]
    short, taps = torch.cat([tokens[:, :1], centroids], 1), [tokens]
    for layer in layers[1:]:
        short = layer(short, position_bias=mask)
        taps.append(torch.cat([short[:, :1], reconstruct(short[:, 1:], record)], 1))
    expected = model.head(model.neck(taps))
    found = expedite.patch(model, alpha=1, clusters=(4, 5))(x).predicted_depth
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_images_of_other_shapes() -> None:
    model, _ = made("Depth Anything")
    expedite.patch(model, alpha=1, clusters=(4, 5))
    for height, width in ((24, 44), (52, 28)):
        assert model(images(1, height, width)).predicted_depth.shape == (1, height, width)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("DPT depth", 4),
        ("DPT hybrid", 2),
        ("UperNet", 3),
        ("BEiT segmentation", 4),
        ("Data2Vec segmentation", 4),
        ("DPT of BEiT", 4),
        ("ZoeDepth", 4),
    ],
)
def test_every_tap_from_the_first_block_on_is_reconstructed(name: str, taps: int) -> None:
    # A short tap of 4×4 tokens raises nothing in DPT's neck: it must never get there.
    model, x = made(name)
    expedite.patch(model, alpha=0, clusters=4)
    with counted_reconstructions(model) as calls:
        model(x)
    assert len(calls) == taps


def test_taps_that_nobody_reads_cost_nothing() -> None:
    torch.manual_seed(0)
    model = randomized(
        hf.DPTForDepthEstimation(
            hf.DPTConfig(**{**DPT, "num_hidden_layers": 12, "backbone_out_indices": [2, 5, 8, 11]})
        )
    )
    expedite.patch(model, alpha=4, clusters=4)
    with counted_reconstructions(model) as calls:
        model(images())
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["ViT", "DINOv2"])
def test_eager_attention_gives_the_same(name: str) -> None:
    model, x = made(name)
    expedite.patch(model, alpha=1, clusters=4)
    fused = model(x).last_hidden_state
    expedite.unpatch(model).set_attn_implementation("eager")
    expedite.patch(model, alpha=1, clusters=4)
    torch.testing.assert_close(model(x).last_hidden_state, fused, rtol=1e-3, atol=1e-3)


def test_attention_without_masks_is_told_what_works() -> None:
    model, x = made("DPT depth")
    model.set_attn_implementation("eager")
    with pytest.raises(ExpediteError, match="log_mass=False works"):
        expedite.patch(model, alpha=1, clusters=4)
    shape = model(x).predicted_depth.shape
    expedite.patch(model, alpha=1, clusters=4, log_mass=False)
    assert model(x).predicted_depth.shape == shape


def test_masks_over_the_full_grid_are_refused() -> None:
    model, x = made("ViT")
    expedite.patch(model, alpha=1, clusters=4)
    with pytest.raises(ExpediteError, match="was called with a mask"):
        model(x, attention_mask=torch.cat([torch.ones(2, 64), torch.zeros(2, 1)], 1))


def test_what_enters_the_first_block_is_the_full_grid_at_alpha_0() -> None:
    model, x = made("ViT")
    plain = model(x, output_hidden_states=True).hidden_states
    expedite.patch(model, alpha=0, clusters=4)
    patched = model(x, output_hidden_states=True).hidden_states
    assert torch.equal(patched[0], plain[0])
    assert [state.shape for state in patched] == [state.shape for state in plain]


@pytest.mark.parametrize("how", ["keyword", "position", "configuration", "configuration and None"])
def test_hidden_states_are_of_the_full_grid_however_they_are_asked_for(how: str) -> None:
    model, x = made("Depth Anything")
    expedite.patch(model, alpha=1, clusters=4)
    expected = model(x, output_hidden_states=True).hidden_states
    model.config.output_hidden_states = "configuration" in how
    calls = {
        "keyword": lambda: model(x, output_hidden_states=True),
        "position": lambda: model(x, None, None, True),
        "configuration": lambda: model(x),
        "configuration and None": lambda: model(x, output_hidden_states=None),
    }
    found = calls[how]().hidden_states
    assert len(found) == 5
    assert all(torch.equal(*states) for states in zip(found, expected, strict=True))


def test_a_patched_model_in_a_pipeline() -> None:
    model, _ = made("DPT depth")
    processor = hf.DPTImageProcessor(size={"height": 32, "width": 32})
    estimate = hf.pipeline("depth-estimation", model=model, image_processor=processor)
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    plain = estimate(photograph)["predicted_depth"]
    with expedite.patched(model, alpha=1, clusters=4):
        patched = estimate(photograph)["predicted_depth"]
    assert patched.shape == plain.shape == (40, 60)
    assert not torch.allclose(patched, plain)
    assert torch.equal(estimate(photograph)["predicted_depth"], plain)


def test_saved_and_loaded_as_ever(tmp_path: Any) -> None:
    model, x = made("DINOv2")
    plain = model(x).last_hidden_state
    expedite.patch(model, alpha=1, clusters=4).save_pretrained(tmp_path)
    assert torch.equal(hf.Dinov2Model.from_pretrained(tmp_path)(x).last_hidden_state, plain)


def test_attention_that_is_switched_after_patching_is_refused() -> None:
    # DPT hands log-mass to sdpa alone; with another attention it would be dropped in silence.
    model, x = made("DPT depth")
    expedite.patch(model, alpha=1, clusters=4)
    model.set_attn_implementation("eager")
    with pytest.raises(ExpediteError, match=r"with the attention 'sdpa' and is run with 'eager'"):
        model(x)


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.17.0.dev0"])
def test_older_versions_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = made("ViT")
    monkeypatch.setitem(vars(sys.modules["transformers"]), "__version__", version)
    with pytest.raises(ExpediteError, match=f"transformers {version} was given; 5.18 or newer"):
        expedite.patch(model, alpha=1, clusters=4)


def test_the_oldest_version_is_the_one_that_can_be_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))
    extra = project["project"]["optional-dependencies"]["hf"]
    assert f"transformers>={OLDEST[0]}.{OLDEST[1]}" in extra


@pytest.mark.parametrize(("wanted", "count"), [(0, 1), ([5, 7], 1), ([-1], 1), ([1, 3], 3)])
def test_states_are_those_that_the_library_takes(wanted: Any, count: int) -> None:
    model, x = made("DINOv2")
    plain = model(x, output_hidden_states=wanted).hidden_states
    expedite.patch(model, alpha=0, clusters=4)
    with counted_reconstructions(model) as calls:
        found = model(x, output_hidden_states=wanted).hidden_states
    assert len(calls) == count
    assert [None if state is None else state.shape for state in found or ()] == [
        None if state is None else state.shape for state in plain or ()
    ]
