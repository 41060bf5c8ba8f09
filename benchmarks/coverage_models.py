"""The models that `benchmarks.coverage` builds: small, random, of their real classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import timm
import torchvision  # type: ignore[import-untyped]
import transformers
from torch import Tensor, nn

from tests.host_table import HOSTS, called, hidden_states, tensors
from tests.patchers.transformers.test_packed import MODELS as PACKED
from tests.patchers.transformers.test_swin import mask2former, maskformer
from tests.patchers.transformers.test_swin import upernet as upernet_of_swin
from tests.patchers.transformers.test_tower_users import MODELS as TOWER_USERS
from tests.patchers.transformers.test_towers import DINO, SIZE, TOWERS, VIT
from tests.patchers.transformers.test_vit import MODELS
from tests.patchers.transformers.test_vitdet import USERS as VITDET_USERS

# Its configs take what their annotations do not show.
hf: Any = transformers
# The smallest of every kind of blocks in timm.
_NAMES = """
beit_base_patch16_224 beitv2_base_patch16_224 cait_xxs24_224 coat_tiny convit_tiny
crossvit_9_240 davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0
eva02_tiny_patch14_224 fastvit_sa12 flexivit_small focalnet_tiny_srf gcvit_xxtiny hiera_tiny_224
levit_128s maxvit_rmlp_pico_rw_256 mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap
nest_tiny nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0 sam2_hiera_tiny
samvit_base_patch16_224 shvit_s1 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_patch16_224
twins_pcpvt_small twins_svt_small visformer_tiny vit_base_mci_224 vit_base_patch16_rpn_224
vit_base_patch16_xp_224 vit_dpwee_patch16_reg1_gap_256 vit_dwee_patch16_reg1_gap_256
vit_pe_core_tiny_patch16_384 vit_pwee_patch16_reg1_gap_256 vit_relpos_small_patch16_224
vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_small_patch16_18x2_224
vit_small_patch16_dinov3 vit_small_patch16_dinov3_qkvb vit_small_patch16_rope_224
vit_small_patch16_rope_ape_224 vit_small_patch16_rope_mixed_224
vit_small_patch16_rope_mixed_ape_224 vit_base_patch16_siglip_224 vit_base_patch16_siglip_gap_224
vit_small_r26_s32_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_xsmall_patch16_clip_224
vit_wee_patch16_reg1_gap_256 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224
"""
TIMM = _NAMES.split()
# Of transformers: model, config, its size, images.
PLAIN = {
    "VideoMAEModel": ("VideoMAEConfig", {**VIT, "num_frames": 4}, (2, 4, 3, 32, 32)),
    "VJEPA2Model": (
        "VJEPA2Config",
        {**SIZE, "patch_size": 4, "crop_size": 32, "frames_per_clip": 4}
        | {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
        (2, 4, 3, 32, 32),
    ),
    "VitDetModel": ("VitDetConfig", DINO, (2, 3, 32, 32)),
    "SegformerForSemanticSegmentation": ("SegformerConfig", {}, (2, 3, 64, 64)),
    "GLPNForDepthEstimation": ("GLPNConfig", {}, (2, 3, 64, 64)),
    "PvtModel": ("PvtConfig", {"image_size": 64}, (2, 3, 64, 64)),
    "PvtV2Model": ("PvtV2Config", {"image_size": 64}, (2, 3, 64, 64)),
    "CvtModel": ("CvtConfig", {}, (2, 3, 64, 64)),
    "GroupViTVisionModel": (
        "GroupViTVisionConfig",
        {"hidden_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 4},
        (2, 3, 32, 32),
    ),
    "DonutSwinModel": ("DonutSwinConfig", {"image_size": 224}, (1, 3, 224, 224)),
    "Swin2SRModel": ("Swin2SRConfig", {"embed_dim": 24, "num_heads": [2] * 6}, (1, 3, 64, 64)),
    "TimesformerModel": ("TimesformerConfig", {**VIT, "num_frames": 2}, (2, 2, 3, 32, 32)),
    "VivitModel": (
        "VivitConfig",
        {**VIT, "num_frames": 4, "tubelet_size": [2, 4, 4]},
        (2, 4, 3, 32, 32),
    ),
    "Data2VecVisionModel": ("Data2VecVisionConfig", VIT, (2, 3, 32, 32)),
    "ViTForMaskedImageModeling": ("ViTConfig", VIT, (2, 3, 32, 32)),
    "DeiTForMaskedImageModeling": ("DeiTConfig", {**VIT, "encoder_stride": 4}, (2, 3, 32, 32)),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        DINO,
        (2, 3, 32, 32),
    ),
    "SwinForImageClassification": ("SwinConfig", {}, (1, 3, 224, 224)),
    "Swinv2ForImageClassification": (
        "Swinv2Config",
        {"image_size": 256, "window_size": 8},
        (1, 3, 256, 256),
    ),
    "HieraForImageClassification": ("HieraConfig", {}, (1, 3, 224, 224)),
    "HieraBackbone": ("HieraConfig", {"out_features": ["stage3", "stage4"]}, (1, 3, 224, 224)),
}
LIBRARIES = {"segment_anything", "timm", "torchvision", "transformers"}
SMP = "segmentation_models_pytorch"
ENCODERS = {
    "DPT": ("tu-vit_base_patch16_224", "tu-vit_small_patch16_dinov3", "tu-samvit_base_patch16_224"),
    "Unet": ("mit_b0", "tu-swin_tiny_patch4_window7_224", "tu-pvt_v2_b0", "tu-maxvit_tiny_tf_224"),
    "FPN": ("tu-swinv2_tiny_window8_256",),
    "UPerNet": ("tu-swin_tiny_patch4_window7_224", "tu-hiera_tiny_224"),
    "Segformer": ("mit_b0",),
}


@dataclass(frozen=True)
class Row:
    """A model of the table.

    Args:
        model: What people call it.
        library: Where its class comes from.
        make: Makes it; raises ModuleNotFoundError where the library is not installed.
        shape: Of its images.
        outputs: Everything that can be read of a call.
    """

    model: str
    library: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (2, 3, 32, 32)
    outputs: Callable[[Any, Tensor], list[Tensor]] = called


def rows() -> Iterator[Row]:
    """Every model, libraries one behind the other."""
    for host in HOSTS:
        first = host.name.partition(" ")[0]
        library = first if first in LIBRARIES else "as published"
        yield Row(host.name, library, host.small, (2, 3, host.side, host.side), host.outputs)
    for name, (make, _) in TOWERS.items():
        side = 64 if name == "ViTPose" else 32
        yield Row(f"{name}, tower", "transformers", make, (2, 3, side, side), hidden_states)
    for name, (make, _) in MODELS.items():
        side = 128 if name == "DPT hybrid" else 32
        yield Row(name, "transformers", make, (2, 3, side, side), hidden_states)
    for name, (make, call) in TOWER_USERS.items():
        side = 64 if name == "ViTPose" else 32
        reads = partial(_through, call=call)
        yield Row(f"{name}, whole", "transformers", make, (2, 3, side, side), reads)
    for name, (make, call, _) in PACKED.items():
        side = 128 if name.startswith("Qwen2") else 32  # it names no size of its own
        reads = partial(_through, call=call)
        yield Row(name, "transformers", make, (2, 3, side, side), reads)
    for name, (config, sizes, shape) in PLAIN.items():
        yield Row(name, "transformers", _config(name, config, sizes), shape)
    for name, (make_users, shape) in VITDET_USERS.items():
        yield Row(name, "transformers", make_users, shape)
    yield Row("Mask2Former (Swin)", "transformers", mask2former, (1, 3, 64, 64))
    yield Row("MaskFormer (Swin)", "transformers", maskformer, (1, 3, 64, 64))
    yield Row("UperNet (Swin)", "transformers", upernet_of_swin, (1, 3, 64, 64))
    for name in TIMM:
        known = timm.get_pretrained_cfg(name)
        assert known is not None  # every name is of a published checkpoint
        size = known.input_size
        yield Row(name, "timm", partial(timm.create_model, name), (1, *size))
    for name in ("maxvit_t", "swin_t", "swin_v2_t", "vit_b_16"):
        make = partial(torchvision.models.get_model, name)
        yield Row(name, "torchvision", make, (1, 3, 224, 224))
    yield from _of_other_packages()


def _of_other_packages() -> Iterator[Row]:
    """What is built where its package is installed."""
    square = (1, 3, 224, 224)
    for name in ("ViT-B-16", "ViT-B-32", "ViT-B-16-SigLIP", "EVA02-B-16", "coca_ViT-B-32"):
        make = partial(_from, "open_clip", "create_model", model_name=name)
        yield Row(f"{name}, images", "open_clip", make, square, _encoded)
    for name in ("DPT", "Unet", "FPN", "UPerNet", "Segformer"):
        for encoder in ENCODERS[name]:
            make = partial(_from, SMP, name, encoder_name=encoder, encoder_weights=None)
            shape = (1, 3, 256, 256) if encoder.endswith("256") else square
            yield Row(f"{name}({encoder})", "segmentation_models_pytorch", make, shape)


def _from(package: str, name: str, **arguments: Any) -> nn.Module:
    made: nn.Module = getattr(import_module(package), name)(**arguments)
    return made


def _encoded(model: Any, images: Tensor) -> list[Tensor]:
    return [model.encode_image(images)]


def _through(model: Any, images: Tensor, call: Callable[[Any, Tensor], Any]) -> list[Tensor]:
    return list(tensors(call(model, images)))


def _config(kind: str, config: str, sizes: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: getattr(hf, kind)(getattr(hf, config)(**sizes))
