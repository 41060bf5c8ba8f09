"""Heads on a pyramid against a second library's, and against their definition."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork  # type: ignore[import-untyped]

from expedite import ExpediteError
from expedite.models.adapter_segmenter import AdapterSegmenter
from expedite.models.pyramid_heads import AuxiliaryHead, FeaturePyramid, SemanticFPN, UperNet
from tests.models.drawn import draw_weights

pytestmark = pytest.mark.usefixtures("no_gradients")


def maps(width: int = 6) -> list[Tensor]:
    return [torch.randn(2, width, 32 // step, 48 // step) for step in (1, 2, 4, 8)]


def test_the_neck_equals_torchvision() -> None:
    neck, theirs = FeaturePyramid(6, channels=5), FeaturePyramidNetwork([6] * 4, 5)
    draw_weights(neck.state_dict())
    names = {"lateral_convs": "inner_blocks", "fpn_convs": "layer_blocks"}
    state = {}
    for name, tensor in neck.state_dict().items():
        part, index, _, kind = name.split(".")
        state[f"{names[part]}.{index}.0.{kind}"] = tensor
    theirs.load_state_dict(state)
    x = maps()
    expected = theirs({str(index): one for index, one in enumerate(x)}).values()
    for found, one in zip(neck(x), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_upernet_equals_transformers() -> None:
    from transformers import UperNetConfig
    from transformers.models.upernet import modeling_upernet as library

    sizes: dict[str, Any] = {"hidden_size": 8, "auxiliary_channels": 8, "num_labels": 3}
    config, make = UperNetConfig(**sizes), cast(Any, library)
    x = maps()
    for ours, theirs, given in (
        (UperNet(3, 6, hidden=8), make.UperNetHead(config, [6] * 4), x),
        (AuxiliaryHead(3, 6, hidden=8), make.UperNetFCNHead(config, [6] * 4, in_index=0), x[0]),
    ):
        draw_weights(ours.eval().state_dict())
        names = {".bn.": ".batch_norm.", "conv_seg": "classifier"}
        state = ours.state_dict()
        for old, new in names.items():
            state = {name.replace(old, new): tensor for name, tensor in state.items()}
        theirs.eval().load_state_dict(state)
        torch.testing.assert_close(ours(given), theirs(x), rtol=1e-4, atol=1e-4)


def test_semantic_fpn_by_hand() -> None:
    head = SemanticFPN(3, channels=6, hidden=5).eval()
    draw_weights(head.state_dict())
    state = head.state_dict()

    def convolved(x: Tensor, name: str) -> Tensor:
        statistics = [state[f"{name}.bn.{kind}"] for kind in ("running_mean", "running_var")]
        affine = [state[f"{name}.bn.{kind}"] for kind in ("weight", "bias")]
        x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
        return F.batch_norm(x, *statistics, *affine).relu()

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x = maps()
    total = convolved(x[0], "scale_heads.0.0")
    for level in (1, 2, 3):
        one = x[level]
        for step in range(level):
            one = doubled(convolved(one, f"scale_heads.{level}.{2 * step}"))
        total = total + one
    expected = F.conv2d(total, state["conv_seg.weight"], state["conv_seg.bias"])
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(
        ExpediteError, match="'fpn' was asked; there are semantic-fpn, upernet, mask2former"
    ):
        AdapterSegmenter(torch.nn.Identity(), 6, 3, "fpn")  # type: ignore[arg-type]
