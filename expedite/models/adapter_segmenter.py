"""A ViT-Adapter under a segmentation head, as its published checkpoints are laid out."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.models.pyramid_heads import AuxiliaryHead, FeaturePyramid, SemanticFPN, UperNet
from expedite.models.query_head import QueryHead, QuerySizes

Head = Literal["semantic-fpn", "upernet", "mask2former"]
HEADS: tuple[Head, ...] = ("semantic-fpn", "upernet", "mask2former")
# Channels inside the most published ones.
HIDDEN: dict[Head, int] = {"semantic-fpn": 256, "upernet": 512, "mask2former": 256}


class AdapterSegmenter(nn.Module):
    """Scores (B, n_cls, H, W) of images whose sides are multiples of 32.

    Args:
        backbone: Puts out four maps of `width` channels, at a 4th to a 32nd of the image's size.
        width: Of these maps.
        n_cls: Classes.
        head: "semantic-fpn", "upernet" or "mask2former", which needs transformers.
        hidden: Channels inside the head; of a Semantic FPN, in its neck, behind which there are
            half of them. None for those that most published ones have.
        queries: How large a Mask2Former's head is otherwise.

    Raises:
        ExpediteError: There is no such head, or it cannot be built.

    Example:
        >>> import torch
        >>> from expedite.models.vit_adapter import AdapterConfig, ViTAdapter
        >>> config = AdapterConfig(32, heads=2, layers=4, adapter_heads=2, planes=8)
        >>> model = AdapterSegmenter(ViTAdapter(config), config.width, n_cls=5).eval()
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 5, 64, 96])
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        n_cls: int,
        head: Head = "semantic-fpn",
        hidden: int | None = None,
        queries: QuerySizes | None = None,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ExpediteError(f"the head '{head}' was asked; there are {', '.join(HEADS)}")
        hidden = hidden or HIDDEN[head]
        self.backbone = backbone
        self.neck: nn.Module
        self.decode_head: nn.Module
        if head == "semantic-fpn":
            self.neck = FeaturePyramid(width, hidden)
            self.decode_head = SemanticFPN(n_cls, hidden, hidden // 2)
        elif head == "mask2former":
            self.neck = nn.Identity()
            self.decode_head = QueryHead(n_cls, width, hidden, queries or QuerySizes())
        else:
            self.neck = nn.Identity()
            self.decode_head = UperNet(n_cls, width, hidden)
            self.auxiliary_head = AuxiliaryHead(n_cls, width)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to scores (B, n_cls, H, W)."""
        scores = self.decode_head(self.neck(list(self.backbone(images))))
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear")
