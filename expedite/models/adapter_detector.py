"""Mask R-CNN on a ViT-Adapter: boxes and masks from torchvision's head on the pyramid.

The published checkpoints are of mmdetection 2.x; `load_detector` maps their names. Two things of
torchvision's remain: RoIAlign without the shift of half a pixel, and anchors rounded to pixels. So
boxes differ a little from the published code's. Their ATSS, GFL, Cascade Mask R-CNN and HTC++ have
no home here.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]

from expedite.errors import ExpediteError
from expedite.models.adapter_config import AdapterConfig, for_detection
from expedite.models.adapter_files import config_of
from expedite.models.files import load_weights, read_state_dict
from expedite.models.meta import META
from expedite.models.pyramid_heads import FeaturePyramid
from expedite.models.vit_adapter import ViTAdapter

# Where mmdetection's names go, part by part; of the three last layers classes are moved as well.
_NAMES = {
    "backbone.": "backbone.body.",
    "neck.": "backbone.neck.",
    "rpn_head.rpn_conv.": "rpn.head.conv.0.0.",
    "rpn_head.rpn_cls.": "rpn.head.cls_logits.",
    "rpn_head.rpn_reg.": "rpn.head.bbox_pred.",
    "roi_head.bbox_head.shared_fcs.0.": "roi_heads.box_head.fc6.",
    "roi_head.bbox_head.shared_fcs.1.": "roi_heads.box_head.fc7.",
    "roi_head.mask_head.convs.0.conv.": "roi_heads.mask_head.0.0.",
    "roi_head.mask_head.convs.1.conv.": "roi_heads.mask_head.1.0.",
    "roi_head.mask_head.convs.2.conv.": "roi_heads.mask_head.2.0.",
    "roi_head.mask_head.convs.3.conv.": "roi_heads.mask_head.3.0.",
    "roi_head.mask_head.upsample.": "roi_heads.mask_predictor.conv5_mask.",
    "roi_head.bbox_head.fc_cls.": "roi_heads.box_predictor.cls_score.",
    "roi_head.bbox_head.fc_reg.": "roi_heads.box_predictor.bbox_pred.",
    "roi_head.mask_head.conv_logits.": "roi_heads.mask_predictor.mask_fcn_logits.",
}


class DetectorBackbone(nn.Module):
    """Images to the five maps that torchvision's detectors read."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.neck = FeaturePyramid(width)
        self.out_channels = 256

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.neck(list(self.body(images)))
        named = OrderedDict((str(index), one) for index, one in enumerate(maps))
        named["pool"] = F.max_pool2d(maps[-1], 1, stride=2)
        return named


def build_detector(config: AdapterConfig, n_cls: int = 80, meta: bool = False) -> MaskRCNN:
    """A Mask R-CNN with random weights; class 0 of its output is the background.

    It takes images (3, H, W) with values from 0 to 1, and resizes and normalises them itself.

    Args:
        config: Of the backbone; see `adapter_config.for_detection`.
        n_cls: Classes without the background.
        meta: Whether the adapter is META's.

    Example:
        >>> from expedite.models.adapter_config import SIZES
        >>> with torch.device("meta"):
        ...     model = build_detector(for_detection(SIZES["tiny"]))
        >>> round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1)
        28.1
    """
    body = (META if meta else ViTAdapter)(config)
    detector: MaskRCNN = MaskRCNN(DetectorBackbone(body, config.width), n_cls + 1)
    return detector


def load_detector(path: Path) -> MaskRCNN:
    """Load a published Mask R-CNN, in eval mode.

    Raises:
        ExpediteError: It is missing, damaged, or of another architecture.
    """
    state = read_state_dict(path)
    if "backbone.level_embed" not in state or "roi_head.mask_head.conv_logits.weight" not in state:
        raise ExpediteError(
            f"{path} holds no Mask R-CNN on a ViT-Adapter: it lacks backbone.level_embed or "
            "roi_head.mask_head.conv_logits"
        )
    config = for_detection(config_of(state, "backbone."))
    detector = build_detector(config, len(state["roi_head.mask_head.conv_logits.weight"]))
    load_weights(detector, translate(state), path)
    return detector.eval()


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of mmdetection's Mask R-CNN under torchvision's names, the background's class first.

    Example:
        >>> translate({"roi_head.bbox_head.fc_cls.bias": torch.tensor([1.0, 2.0, 9.0])})
        {'roi_heads.box_predictor.cls_score.bias': tensor([9., 1., 2.])}
    """
    return {_renamed(name): _with_background_first(name, x) for name, x in state.items()}


def _renamed(name: str) -> str:
    prefix = next((prefix for prefix in _NAMES if name.startswith(prefix)), "")
    return _NAMES.get(prefix, "") + name.removeprefix(prefix)


def _with_background_first(name: str, x: Tensor) -> Tensor:
    if "bbox_head.fc_cls." in name:  # there it is the last
        return x.roll(1, 0)
    if "bbox_head.fc_reg." in name:  # there it has no box
        return torch.cat([torch.zeros_like(x[:4]), x])
    if "mask_head.conv_logits." in name:  # there it has no mask
        return torch.cat([torch.zeros_like(x[:1]), x])
    return x
