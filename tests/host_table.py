"""The table of hosts in docs/hosts.md: what is checked of each, and on which models.

`tests/test_host_table.py` runs the checks; `python -m benchmarks.hosts` adds the GFLOPs of models
of real size and writes the table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import expedite
from expedite.loading import load_model
from expedite.operators import clustering
from tests import hosts
from tests.patchers.transformers.test_towers import TOWERS
from tests.patchers.transformers.test_vit import MODELS, hf
from tests.patching.test_oracles import HARD, blocky
from tests.published_swin import published_backbone, published_swin, published_swinv2

DOCS = Path(__file__).parents[1] / "docs" / "hosts.md"
CHECKS = ("patched", "taps", "full grid", "equal cells", "unpatch", "graph breaks")
YES, NO, NOT_DEFINED = "yes", "**NO**", "–"

Model = Any  # modules of four libraries, called in their own ways
Made = tuple[nn.Module, tuple[int, int]]


@dataclass(frozen=True)
class Host:
    """One line of the table.

    Args:
        name: The first column.
        small: A model of this host with four blocks.
        outputs: Everything that can be read of a call, taps included.
        side: Of its small square images, in pixels.
        patch_size: In pixels.
        clusters: As many as there are tokens, as `patch` takes it; half of it for real clusters.
        has_equal_cells: Whether equal patches make equal tokens that clusters stand for without
            loss: not behind convolutions, not where each cluster has positions of its own.
        full: What the GFLOPs are of.
        make_full: Makes it, with the size of its images.
        plan: What it is patched with.
    """

    name: str
    small: Callable[[], Model]
    outputs: Callable[[Model, Tensor], list[Tensor]]
    full: str
    make_full: Callable[[], Made]
    plan: dict[str, Any]
    side: int = 32
    patch_size: int = 4
    clusters: int = 8
    has_equal_cells: bool = True
    images: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", hosts.images(2, self.side, self.side))


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in an output, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from tensors(part)
    elif hasattr(output, "to_tuple"):
        yield from tensors(output.to_tuple())
    elif isinstance(output, Mapping):
        yield from tensors(list(output.values()))


def called(model: Model, images: Tensor) -> list[Tensor]:
    return list(tensors(model(images)))


def hidden_states(model: Model, images: Tensor) -> list[Tensor]:
    return list(tensors(model(images, output_hidden_states=True)))


def last_state_first(model: Model, images: Tensor) -> list[Tensor]:
    return hidden_states(model, images)[::-1]


def intermediates(model: Model, images: Tensor) -> list[Tensor]:
    return [model(images), *tensors(model.forward_intermediates(images))]


def transformers_model(name: str) -> Callable[[], Model]:
    def make() -> Model:
        torch.manual_seed(0)
        return hosts.randomized(MODELS[name][0]())

    return make


def tower(name: str) -> Callable[[], Model]:
    def make() -> Model:
        torch.manual_seed(0)
        return hosts.randomized(TOWERS[name][0]())

    return make


def of_config(kind: str, config: str, side: int, **changes: Any) -> Callable[[], Made]:
    """A model of transformers at its configuration's own size, for images of `side`."""

    def make() -> Made:
        model: nn.Module = getattr(hf, kind)(getattr(hf, config)(**changes)).eval()
        return model, (side, side)

    return make


def named(spec: str, size: tuple[int, int] | None = None) -> Callable[[], Made]:
    def make() -> Made:
        loaded = load_model(spec, size)
        return loaded.model, loaded.image_size

    return make


def depth_anything() -> Made:
    backbone = hf.Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        reshape_hidden_states=False,
    )
    config = hf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
    )
    return hf.DepthAnythingForDepthEstimation(config).eval(), (518, 518)


def upernet() -> Made:
    backbone = hf.Dinov2Config(
        image_size=518, patch_size=14, out_features=["stage3", "stage6", "stage9", "stage12"]
    )
    config = hf.UperNetConfig(backbone_config=backbone, auxiliary_in_channels=768)
    return hf.UperNetForSemanticSegmentation(config).eval(), (518, 518)


def sam2_large() -> Made:
    config = hf.Sam2HieraDetConfig(
        hidden_size=144,
        num_attention_heads=2,
        blocks_per_stage=[2, 6, 36, 4],
        embed_dim_per_stage=[144, 288, 576, 1152],
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 16, 8],
        global_attention_blocks=[23, 33, 43],
    )
    return hf.AutoModel.from_config(config).eval(), (1024, 1024)


def sam_of_transformers() -> Model:
    return hosts.huggingface_sam().model


# Swin-B, as SwinConfig and the published code call its sizes.
BASE: dict[str, Any] = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}


def published(make: Callable[..., nn.Module], side: int, **changes: Any) -> Callable[[], Made]:
    return lambda: (make(patch_size=4, **BASE, **changes), (side, side))


def swin(
    name: str,
    small: Callable[[], Model],
    full: str,
    make_full: Callable[[], Made],
    clusters: int = 8,
    outputs: Callable[[Model, Tensor], list[Tensor]] = called,
) -> Host:
    plan = {"alpha": 8, "clusters": clusters}
    return Host(name, small, outputs, full, make_full, plan, patch_size=2)


# A ViT-L, as transformers calls its sizes.
LARGE: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
LARGE |= {"num_attention_heads": 16}
# A third to two fifths of the tokens from a third of the blocks on, unless published otherwise.
HOSTS = [
    Host(
        "Segmenter, published layout",
        hosts.segmenter,
        called,
        "ViT-L/16 at 640², α=10, 28×28",
        named("segmenter-vit-l16-ade20k"),
        {"alpha": 10, "clusters": 28},
    ),
    Host(
        "DPT-Large, published layout",
        hosts.dpt,
        called,
        "dpt_large at 384², α=8, 14×14",
        named("dpt:dpt_large"),
        {"alpha": 8, "clusters": 14},
        side=128,
        patch_size=16,
    ),
    Host(
        "DPT-Hybrid, published layout",
        lambda: hosts.dpt(stages=(1, 1, 1), taps=(2, 3), features=(256, 512, 32, 32)),
        called,
        "dpt_hybrid_kitti at 352×1216, α=5, 20×20",
        named("dpt-hybrid-kitti"),
        {"alpha": 5, "clusters": 20},
        side=128,
        patch_size=16,
        has_equal_cells=False,
    ),
    Host(
        "ViT-Adapter, published layout",
        hosts.vit_adapter,
        called,
        "ViT-Adapter-B, Semantic FPN at 512², α=4, 19×19",
        named("vit_adapter:base-semantic-fpn", (512, 512)),
        {"alpha": 4, "clusters": 19},
        side=128,
        patch_size=16,
        has_equal_cells=False,
    ),
    Host(
        "META",
        hosts.meta,
        called,
        "META-B, Semantic FPN at 512², α=4, 19×19",
        named("vit_adapter:meta-base-semantic-fpn", (512, 512)),
        {"alpha": 4, "clusters": 19},
        side=128,
        patch_size=16,
        has_equal_cells=False,
    ),
    Host(
        "timm VisionTransformer",
        hosts.timm_vit,
        intermediates,
        "vit_base_patch16_384, α=4, 14×14",
        named("timm:vit_base_patch16_384"),
        {"alpha": 4, "clusters": 14},
    ),
    Host(
        "timm Eva, rotary (EVA02, DINOv3)",
        hosts.timm_eva,
        intermediates,
        "eva02_base_patch14_448, α=4, 20×20",
        named("timm:eva02_base_patch14_448"),
        {"alpha": 4, "clusters": 20},
        has_equal_cells=False,
    ),
    Host(
        "timm Beit",
        hosts.timm_beit,
        intermediates,
        "beit_base_patch16_384, α=4, 14×14",
        named("timm:beit_base_patch16_384"),
        {"alpha": 4, "clusters": 14},
    ),
    Host(
        "timm VisionTransformerSAM",
        hosts.timm_sam,
        intermediates,
        "samvit_base_patch16 at 1024², α=4, 8×8 a window",
        named("timm:samvit_base_patch16"),
        {"alpha": 4, "clusters": 8},
        patch_size=2,
    ),
    Host(
        "torchvision VisionTransformer, SWAG",
        hosts.torchvision_vit,
        called,
        "vit_h_14 at 518², α=10, 22×22",
        named("swag-vit-h14"),
        {"alpha": 10, "clusters": 22},
    ),
    Host(
        "transformers ViT",
        transformers_model("ViT"),
        hidden_states,
        "ViT-B/16 at 384², α=4, 14×14",
        of_config("ViTModel", "ViTConfig", 384, image_size=384),
        {"alpha": 4, "clusters": 14},
    ),
    Host(
        "transformers DeiT",
        transformers_model("DeiT"),
        hidden_states,
        "DeiT-B/16 at 384², α=4, 14×14",
        of_config("DeiTModel", "DeiTConfig", 384, image_size=384),
        {"alpha": 4, "clusters": 14},
    ),
    Host(
        "transformers DINOv2",
        transformers_model("DINOv2"),
        hidden_states,
        "ViT-B/14 at 518², α=4, 22×22",
        of_config("Dinov2Model", "Dinov2Config", 518, image_size=518, patch_size=14),
        {"alpha": 4, "clusters": 22},
    ),
    Host(
        "transformers DINOv2 with registers",
        transformers_model("DINOv2 registers"),
        hidden_states,
        "ViT-B/14 at 518², α=4, 22×22",
        of_config(
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersConfig",
            518,
            image_size=518,
            patch_size=14,
        ),
        {"alpha": 4, "clusters": 22},
    ),
    Host(
        "transformers DINOv3",
        transformers_model("DINOv3"),
        hidden_states,
        "ViT-B/16 at 512², α=4, 20×20",
        of_config(
            "DINOv3ViTModel",
            "DINOv3ViTConfig",
            512,
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            num_register_tokens=4,
        ),
        {"alpha": 4, "clusters": 20},
        has_equal_cells=False,
    ),
    Host(
        "transformers DPT",
        transformers_model("DPT depth"),
        hidden_states,
        "DPT-Large at 384², α=8, 14×14",
        of_config(
            "DPTForDepthEstimation",
            "DPTConfig",
            384,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            backbone_out_indices=[5, 11, 17, 23],
            neck_hidden_sizes=[256, 512, 1024, 1024],
        ),
        {"alpha": 8, "clusters": 14},
    ),
    Host(
        "transformers DPT-Hybrid",
        transformers_model("DPT hybrid"),
        hidden_states,
        "DPT-Hybrid at 384², α=4, 14×14",
        of_config(
            "DPTForDepthEstimation",
            "DPTConfig",
            384,
            is_hybrid=True,
            readout_type="project",
            neck_hidden_sizes=[256, 512, 768, 768],
        ),
        {"alpha": 4, "clusters": 14},
        side=128,
        has_equal_cells=False,
    ),
    Host(
        "transformers Depth Anything",
        transformers_model("Depth Anything"),
        hidden_states,
        "Depth Anything V2 Small at 518², α=4, 22×22",
        depth_anything,
        {"alpha": 4, "clusters": 22},
    ),
    Host(
        "transformers BEiT",
        transformers_model("BEiT segmentation"),
        hidden_states,
        "BEiT-B/16 for segmentation at 640², α=4, 24×24",
        of_config(
            "BeitForSemanticSegmentation",
            "BeitConfig",
            640,
            image_size=640,
            use_relative_position_bias=True,
            out_indices=[3, 5, 7, 11],
        ),
        {"alpha": 4, "clusters": 24},
    ),
    Host(
        "transformers UperNet",
        transformers_model("UperNet"),
        hidden_states,
        "UperNet, DINOv2 ViT-B/14 at 518², α=4, 22×22",
        upernet,
        {"alpha": 4, "clusters": 22},
    ),
    Host(
        "transformers CLIP",
        tower("CLIP"),
        hidden_states,
        "CLIP ViT-L/14 at 336², α=8, 14×14",
        of_config(
            "CLIPVisionModel", "CLIPVisionConfig", 336, image_size=336, **LARGE, patch_size=14
        ),
        {"alpha": 8, "clusters": 14},
    ),
    Host(
        "transformers SigLIP",
        tower("SigLIP"),
        hidden_states,
        "SigLIP SO400M/14 at 378², α=9, 16×16",
        of_config(
            "SiglipVisionModel",
            "SiglipVisionConfig",
            378,
            image_size=378,
            patch_size=14,
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
        ),
        {"alpha": 9, "clusters": 16},
    ),
    Host(
        "transformers OWLv2",
        tower("OWLv2"),
        hidden_states,
        "OWLv2 ViT-B/16 at 960², α=4, 36×36",
        of_config("Owlv2VisionModel", "Owlv2VisionConfig", 960, image_size=960),
        {"alpha": 4, "clusters": 36},
    ),
    Host(
        "transformers RF-DETR's backbone",
        tower("RF-DETR"),
        last_state_first,
        "DINOv2-S in 2×2 windows at 560², α=4, 12×12 a window",
        of_config(
            "RfDetrDinov2Backbone",
            "RfDetrDinov2Config",
            560,
            image_size=560,
            patch_size=14,
            hidden_size=384,
            num_attention_heads=6,
            num_windows=2,
            out_indices=[3, 6, 9, 12],
        ),
        {"alpha": 4, "clusters": 12},
        clusters=4,
    ),
    Host(
        "transformers SAM",
        sam_of_transformers,
        hidden_states,
        "SAM ViT-B at 1024², α=4, 8×8 a window",
        of_config("SamVisionModel", "SamVisionConfig", 1024),
        {"alpha": 4, "clusters": 8},
        patch_size=2,
    ),
    Host(
        "segment_anything",
        hosts.segment_anything_sam,
        called,
        "SAM ViT-B at 1024², α=4, 8×8 a window",
        named("sam:vit_b"),
        {"alpha": 4, "clusters": 8},
        patch_size=2,
    ),
    Host(
        "transformers ViTDet",
        lambda: hosts.huggingface_vitdet().model,
        hidden_states,
        "ViTDet-B at 1024², α=4, 8×8 a window",
        of_config(
            "VitDetModel",
            "VitDetConfig",
            1024,
            image_size=1024,
            window_size=14,
            window_block_indices=[0, 1, 3, 4, 6, 7, 9, 10],
            use_relative_position_embeddings=True,
        ),
        {"alpha": 4, "clusters": 8},
        patch_size=2,
    ),
    Host(
        "transformers SAM 3",
        lambda: hosts.huggingface_sam3().model,
        hidden_states,
        "SAM 3's encoder at 1008², α=8, 14×14 a window",
        of_config("Sam3ViTModel", "Sam3ViTConfig", 1008),
        {"alpha": 8, "clusters": 14},
        patch_size=2,
        has_equal_cells=False,
    ),
    Host(
        "transformers SAM 2, Hiera",
        lambda: hosts.huggingface_hiera().model,
        hidden_states,
        "SAM 2.1 large's encoder at 1024², α=15, 9×9 a window",
        sam2_large,
        {"alpha": 15, "clusters": 9},
        patch_size=2,
    ),
    Host(
        "timm HieraDet",
        hosts.timm_hiera,
        intermediates,
        "sam2_hiera_large.fb_r1024, α=15, 9×9 a window",
        named("timm:sam2_hiera_large.fb_r1024"),
        {"alpha": 15, "clusters": 9},
        patch_size=2,
    ),
    Host(
        "transformers Hiera",
        lambda: hosts.huggingface_mask_units().model,
        hidden_states,
        "Hiera-L at 224², α=20, 10×10",
        of_config(
            "HieraModel",
            "HieraConfig",
            224,
            embed_dim=144,
            depths=[2, 6, 36, 4],
            num_heads=[2, 4, 8, 16],
        ),
        {"alpha": 20, "clusters": 10},
        patch_size=2,
        clusters=4,
    ),
    Host(
        "timm Hiera",
        hosts.timm_mask_units,
        intermediates,
        "hiera_large_224, α=20, 10×10",
        named("timm:hiera_large_224"),
        {"alpha": 20, "clusters": 10},
        patch_size=2,
        clusters=4,
    ),
    swin(
        "timm SwinTransformer",
        hosts.timm_swin,
        "swin_base_patch4_window12_384, α=8, 8×8 a window",
        named("timm:swin_base_patch4_window12_384"),
        outputs=intermediates,
    ),
    swin(
        "timm SwinTransformerV2",
        hosts.timm_swinv2,
        "swinv2_base_window12to16_192to256, α=8, 11×11 a window",
        named("timm:swinv2_base_window12to16_192to256"),
        outputs=intermediates,
        clusters=11,
    ),
    swin(
        "timm SwinTransformerV2Cr",
        hosts.timm_swinv2_cr,
        "swinv2_cr_base_384, α=8, 8×8 a window",
        named("timm:swinv2_cr_base_384"),
        outputs=intermediates,
    ),
    swin(
        "torchvision SwinTransformer",
        hosts.torchvision_swin,
        "swin_b at 224², α=8, 5×5 a window",
        named("torchvision:swin_b"),
        clusters=5,
    ),
    swin(
        "torchvision SwinTransformer V2",
        hosts.torchvision_swinv2,
        "swin_v2_b at 256², α=8, 6×6 a window",
        named("torchvision:swin_v2_b", (256, 256)),
        clusters=6,
    ),
    swin(
        "transformers Swin",
        lambda: hosts.huggingface_swin().model,
        "Swin-B at 384², α=8, 8×8 a window",
        named("swin:swin_base", (384, 384)),
        outputs=hidden_states,
    ),
    swin(
        "transformers SwinV2",
        lambda: hosts.huggingface_swinv2().model,
        "SwinV2-B at 256², α=8, 11×11 a window",
        of_config("Swinv2Model", "Swinv2Config", 256, image_size=256, window_size=16, **BASE),
        outputs=hidden_states,
        clusters=11,
    ),
    swin(
        "Swin, published classifier",
        published_swin,
        "Swin-B at 384², α=8, 8×8 a window",
        published(published_swin, 384, img_size=384, window_size=12),
    ),
    swin(
        "Swin, published backbone (Mask2Former, OneFormer, DINO)",
        published_backbone,
        "Swin-B at 640², α=8, 8×8 a window",
        published(published_backbone, 640, window_size=12),
    ),
    swin(
        "SwinV2, published classifier",
        published_swinv2,
        "SwinV2-B at 256², α=8, 11×11 a window",
        published(published_swinv2, 256, img_size=256, window_size=16),
        clusters=11,
    ),
]


def check(host: Host) -> tuple[str, ...]:
    """The cells of `CHECKS` for a host."""
    model, images = host.small(), host.images
    plain = host.outputs(model, images)
    expedite.patch(model, alpha=1, clusters=host.clusters // 2)
    found = host.outputs(model, images)
    cells = {
        "patched": not torch.equal(found[0], plain[0]),
        "taps": [tap.shape for tap in found] == [tap.shape for tap in plain],
        "full grid": _full_grid(host, plain),
        "equal cells": _equal_cells(host) if host.has_equal_cells else None,
        "graph breaks": _graph_breaks(host, model) == 0,
    }
    expedite.unpatch(model)
    cells["unpatch"] = all(map(torch.equal, host.outputs(model, images), plain))
    return tuple({True: YES, False: NO, None: NOT_DEFINED}[cells[name]] for name in CHECKS)


def _full_grid(host: Host, plain: list[Tensor]) -> bool:
    """Whether the plain model comes back when every token is a cluster, without the shortcut."""
    model = host.small()
    with patch.object(clustering, "_keeps_every_token", lambda grid, clusters: False):
        expedite.patch(model, alpha=1, clusters=host.clusters, **HARD)
        return _same(host.outputs(model, host.images), plain)


def _equal_cells(host: Host) -> bool:
    """Whether tokens that are equal in cells of 2×2 become one cluster a cell without loss."""
    model = hosts.without_positions(host.small())
    images = blocky(host.images, host.patch_size)
    plain = host.outputs(model, images)
    expedite.patch(model, alpha=1, clusters=host.clusters // 2, **HARD)
    return _same(host.outputs(model, images), plain)


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    # In the mean: convolutions of random weights magnify rounding here and there.
    return all(
        (a - b).abs().mean() < 1e-3 * b.abs().mean() for a, b in zip(found, expected, strict=True)
    )


def _graph_breaks(host: Host, model: Model) -> int:
    """In the host's own code, with what blocks are given: operators are compiled in other tests."""
    light: Any = {"method": "paper", "k": 4, "iterations": 1, "log_mass": True}
    expedite.patch(model, alpha=1, clusters=host.clusters // 2, **light)
    torch.compiler.reset()
    count: int = torch._dynamo.explain(model)(host.images).graph_break_count
    return count


def line(host: Host, cells: tuple[str, ...]) -> str:
    """The start of a host's line in docs/hosts.md; the GFLOPs follow."""
    return f"| {' | '.join((host.name, *cells, host.full))} |"
