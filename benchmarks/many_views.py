"""GFLOPs and time of VGGT at real width on 4 to 200 frames, unpatched and patched.

    python -m benchmarks.many_views
    python -m benchmarks.many_views --frames 4,8,16 --timed 2 --seconds 60

From the repository's root. Random weights, which cost what trained ones do, in the layout of
`tests.published_views`. GFLOPs are counted without memory: of all 24 frame and 24 global blocks,
clustering and reconstruction, and the DINOv2 that makes patches, which stays whole.
With `--timed`, so many blocks of either kind run as well, all of them on clusters.
"""

from functools import partial
from typing import Annotated

import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import expedite
from benchmarks.cases import CPU
from expedite.cli.options import parse_list
from expedite.measure.speed import time_pairs
from tests.published_views import LARGE, Aggregator

SIDE, PATCH, DEPTH = 518, 14, 24  # pixels of a frame, of a patch; blocks of either kind
VIT = "vit_large_patch14_reg4_dinov2"


def model_of(depth: int) -> nn.Module:
    """So many frame blocks and as many global ones, behind a convolution that makes patches."""
    return Aggregator(depth, size=LARGE, patch=PATCH).eval()


def scene_of(frames: int) -> Tensor:
    """(1, S, 3, H, W)."""
    return torch.randn(1, frames, 3, SIDE, SIDE)


def gflops(model: nn.Module, images: Tensor) -> float:
    """Multiply-adds of products and convolutions, which need no values to be counted.

    `expedite.measure.flops`, which does, counts 0.2 % more: norms and resizing.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return float(counter.get_total_flops()) / 2e9


def counted(frames: int, depth: int, alpha: int, clusters: int) -> tuple[float, float]:
    """Of blocks unpatched and patched."""
    with torch.device("meta"):
        model, images = model_of(depth), scene_of(frames)
        plain = gflops(model, images)
        return plain, gflops(expedite.patch(model, alpha=alpha, clusters=clusters), images)


def of_patches() -> float:
    """Of the ViT that makes patches, for a frame."""
    with torch.device("meta"):
        vit = timm.create_model(VIT, img_size=SIDE, num_classes=0).eval()
        return gflops(vit, torch.randn(1, 3, SIDE, SIDE))


def timed(frames: int, depth: int, clusters: int, seconds: float) -> list[str]:
    """Seconds unpatched and patched, the speed-up, and what the GFLOPs allow."""
    torch.manual_seed(0)
    plain, fast = model_of(depth), model_of(depth)
    fast.load_state_dict(plain.state_dict())
    expedite.patch(fast, alpha=0, clusters=clusters)
    images = scene_of(frames)
    with torch.inference_mode():
        calls = partial(plain, images), partial(fast, images)
        timing = time_pairs(*calls, CPU, seconds=seconds, least_pairs=2, warmup=1)
    before, after = counted(frames, depth, 0, clusters)
    times = f"{timing.first.median:.1f}", f"{timing.second.median:.1f}"
    return [*times, f"{timing.speedup.median:.2f}", f"{before / after:.2f}"]


def main(
    frames: Annotated[str, typer.Option(help="One or more.")] = "4,8,16,32,64,100,200",
    alpha: Annotated[int, typer.Option(min=0, help="Blocks of both kinds that stay whole.")] = 12,
    clusters: Annotated[int, typer.Option(help="Along a side, of 37 tokens.")] = 18,
    timed_depth: Annotated[int, typer.Option("--timed", min=0, help="Blocks of a kind.")] = 0,
    seconds: Annotated[float, typer.Option(help="Go on for so long.")] = 30.0,
) -> None:
    """Count, and time, each number of frames."""
    titles = ["frames", "GFLOPs", "patched", "saved"]
    times = ["seconds", "patched", "speed-up", "allowed"] if timed_depth else []
    table, a_frame = Table(*titles, *times), of_patches()
    for count in map(int, parse_list(frames)):
        plain, fast = (g + count * a_frame for g in counted(count, DEPTH, alpha, clusters))
        cells = [str(count), f"{plain:.0f}", f"{fast:.0f}", f"{1 - fast / plain:.0%}"]
        more = timed(count, timed_depth, clusters, seconds) if timed_depth else []
        Console(stderr=True).print(*cells, *more, sep=" | ", highlight=False)
        table.add_row(*cells, *more)
    Console(width=160).print(table, highlight=False)


if __name__ == "__main__":
    typer.run(main)
