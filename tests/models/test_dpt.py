"""DPT against the published code: tensors of its own outputs, for weights drawn from a seed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from expedite import ExpediteError
from expedite.models.dpt import DPT, DPTConfig
from expedite.models.dpt_files import build_dpt
from tests.models.drawn import draw_weights

# What isl-org/DPT at cd3fe90 with timm 0.4.5 puts out for the images and weights made below, every
# eighth row and column of it.
REFERENCE = load_file(Path(__file__).parent / "reference" / "dpt_reference.safetensors")
SIZES = {
    "dpt_hybrid_kitti": (352, 1216),
    "dpt_hybrid_nyu": (480, 640),
    "dpt_hybrid": (384, 384),
    "dpt_large": (96, 160),
    "dpt_hybrid-ade20k": (160, 96),
    "dpt_large-ade20k": (64, 96),
}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("name", list(SIZES))
def test_equals_the_published_model(name: str) -> None:
    model = build_dpt(name)[0].eval()
    draw_weights(model.state_dict())
    images = torch.randn(1, 3, *SIZES[name], generator=torch.Generator().manual_seed(1))
    output = model(images)
    assert output.shape[-2:] == SIZES[name]
    expected = REFERENCE[name]
    # Metric depth of random weights hardly varies: errors are measured in its deviation.
    error = (output[..., ::8, ::8] - expected).abs().max() / expected.std()
    assert error < 1e-3


def small(**changes: object) -> DPTConfig:
    arguments = {"width": 64, "heads": 1, "layers": 4, "taps": (0, 1, 2, 3), "fused": 16}
    sizes = {"features": (8, 16, 32, 32), "image_size": (64, 64)}
    return DPTConfig(**{**arguments, **sizes, **changes})  # type: ignore[arg-type]


def test_metric_depth_is_the_inverse_of_a_scaled_output() -> None:
    relative, metric = DPT(small()).eval(), DPT(small(scale=0.5, shift=0.1)).eval()
    metric.load_state_dict(relative.state_dict())
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(metric(images), 1 / (0.5 * relative(images) + 0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": (0, 1, 2)}, r"taps at the blocks \(0, 1, 2\) were asked of 4; 4 from 0 to 3"),
        ({"taps": (0, 1, 2, 4)}, "4 from 0 to 3 are due"),
        ({"stages": (1, 1, 1)}, "2 from 0 to 3 are due"),
        ({"stages": (1, 1, 1), "taps": (2, 3)}, "DPT's has three, and maps of 256 and 512"),
    ],
)
def test_impossible_architectures(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ExpediteError, match=message):
        small(**changes)


def test_images_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ExpediteError, match=r"images of 64×80; both sides must be multiples of 32"):
        DPT(small())(torch.zeros(1, 3, 64, 80))
