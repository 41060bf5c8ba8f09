"""A small Mask R-CNN on a SwinV2, put together from torchvision's parts.

`examples/train_maskrcnn.py` puts a copy of this file beside the weights that it writes, so that
`DIR/swin_detector.py:load` names the trained model.
"""

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter  # type: ignore[import-untyped]
from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]
from torchvision.models.detection.anchor_utils import AnchorGenerator  # type: ignore[import-untyped]
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead  # type: ignore[import-untyped]
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor  # type: ignore[import-untyped]
from torchvision.models.swin_transformer import (  # type: ignore[import-untyped]
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign  # type: ignore[import-untyped]
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool  # type: ignore[import-untyped]

from expedite.models.files import load_weights, read_state_dict

SIZE = (256, 384)
CLASSES = 10  # a detector's class 0 is the background, which here is the sky


class SwinPyramid(nn.Module):
    """Maps of a SwinV2's stages, each through a norm of its own, made a feature pyramid.

    Args:
        width: Of the tokens in the first stage.
        depths: Blocks of every stage.
        window: Side of a window in tokens.
        out_channels: Of the pyramid's maps.
    """

    def __init__(self, width: int, depths: list[int], window: int, out_channels: int) -> None:
        super().__init__()
        swin = SwinTransformer(
            [4, 4], width, depths, [2**stage for stage in range(len(depths))], [window, window],
            stochastic_depth_prob=0.0,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        )  # fmt: skip
        widths = [width * 2**stage for stage in range(len(depths))]
        stages = {str(2 * stage + 1): str(stage) for stage in range(len(depths))}
        self.body = IntermediateLayerGetter(swin.features, stages)
        self.norms = nn.ModuleDict({str(i): nn.LayerNorm(c) for i, c in enumerate(widths)})
        self.fpn = FeaturePyramidNetwork(widths, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The pyramid of images (B, 3, H, W), from stride 4 on."""
        maps = OrderedDict(
            (name, self.norms[name](tokens).permute(0, 3, 1, 2))
            for name, tokens in self.body(images).items()
        )
        pyramid: OrderedDict[str, Tensor] = self.fpn(maps)
        return pyramid


def detector(
    width: int = 40, depths: tuple[int, ...] = (1, 1, 8, 1), window: int = 8, channels: int = 64
) -> MaskRCNN:
    """The detector with random weights."""
    levels = [str(stage) for stage in range(len(depths))]
    return MaskRCNN(
        SwinPyramid(width, list(depths), window, channels),
        num_classes=None,
        min_size=SIZE[0],
        max_size=SIZE[1],
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        rpn_anchor_generator=AnchorGenerator(
            tuple((12 * 2**level,) for level in range(len(levels) + 1)),
            ((0.5, 1.0, 2.0),) * (len(levels) + 1),
        ),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        box_head=TwoMLPHead(channels * 49, 256),
        box_predictor=FastRCNNPredictor(256, CLASSES),
        box_batch_size_per_image=96,
        box_detections_per_img=50,
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
        mask_head=MaskRCNNHeads(channels, (channels, channels), 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, CLASSES),
    )


def load() -> MaskRCNN:
    """The detector with the weights that lie beside this file."""
    model = detector()
    file = Path(__file__).with_name("model.pth")
    load_weights(model, read_state_dict(file), file)
    model.pretrained_cfg = {"input_size": (3, *SIZE)}
    return model
