"""Train Depth Anything's head on a frozen DINOv2-S, on generated scenes' depth, from kept tokens.

    python -m benchmarks.real_weights
    python examples/frozen_features.py --backbone WEIGHTS --out FEATURES
    python examples/train_depth_head.py --features FEATURES/scenes --backbone WEIGHTS

The head reads the blocks 3, 6, 9 and 12, as Depth Anything's does with its small backbone; it gives
metres. Windows of tokens train it, since it is made of convolutions; the backbone, which does not
run here, had seen the whole scene.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from frozen_features import Kept, Normed
from frozen_heads import PATCH, SCENE, TAPS, DepthAnything, head_file
from running import console, run_script
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from train_dpt import log_error
from training import Run, start, train_epoch

from expedite.data.truths import NO_DEPTH
from expedite.evaluate.tasks.depth import Depth
from expedite.scenes.scenes import FARTHEST

_SIDE = SCENE[0] // PATCH
_WINDOW = 18  # of 37 tokens along each side


def window(tokens: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """A random part of a batch's scenes, tokens (B, taps, N, C) with depth (B, H, W)."""
    top, left = (int(torch.randint(_SIDE - _WINDOW + 1, ())) for _ in range(2))
    batch, taps, _, channels = tokens.shape
    grid = tokens.view(batch, taps, _SIDE, _SIDE, channels)
    grid = grid[:, :, top : top + _WINDOW, left : left + _WINDOW]
    rows, columns = (slice(PATCH * first, PATCH * (first + _WINDOW)) for first in (top, left))
    return grid.flatten(2, 3), depth[:, rows, columns]


def loss_of(head: DepthAnything, norm: Normed, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean difference of the logarithms of depth, and half that of their gradients."""
    tokens, depth = window(*batch)
    depth = depth.where(depth < FARTHEST, 0)  # 0 is unknown
    with torch.autocast("cpu", torch.bfloat16):
        predicted = head(norm.maps(tokens, TAPS, _WINDOW))
    error, known = log_error(predicted.float(), depth), depth > 0
    down, across = known[:, 1:] & known[:, :-1], known[:, :, 1:] & known[:, :, :-1]
    steps = error.diff(dim=1)[down].abs().mean() + error.diff(dim=2)[across].abs().mean()
    return error[known].abs().mean() + 0.5 * steps


@torch.inference_mode()
def measure(head: DepthAnything, norm: Normed, kept: Kept) -> dict[str, float]:
    """RMSE in metres, AbsRel and δ<1.25 of whole scenes, averaged over them."""
    head.eval()
    task = Depth(maximum=FARTHEST)
    meter = task.meter()
    for index in range(len(kept)):
        tokens, depth = kept[index]
        truth = depth.where(depth < FARTHEST, NO_DEPTH)
        meter.add(truth, head.at_size(norm.maps(tokens[None], TAPS, _SIDE), SCENE)[0])
    values = meter.values()
    return {metric.title: values[metric.name] for metric in task.metrics[: task.shown]}


def train(
    run: Run[DepthAnything], norm: Normed, train: Kept, val: Kept, epochs: int, batch: int
) -> None:
    """Train for some epochs, writing the averaged head after each."""
    path = head_file("depth")
    path.parent.mkdir(parents=True, exist_ok=True)
    while run.epoch < epochs:
        began = time.perf_counter()
        order = torch.Generator().manual_seed(run.epoch)
        batches = DataLoader(train, batch, shuffle=True, generator=order)
        run.model.train()
        loss = train_epoch(run, batches, [1] * epochs, lambda one: loss_of(run.model, norm, one))
        line = f"epoch {run.epoch}/{epochs}: loss {loss:.3f}, {time.perf_counter() - began:.0f} s"
        save_file(run.averaged.state_dict(), path)
        if run.epoch % 4 == 0 or run.epoch == epochs:
            found = measure(run.averaged, norm, val)
            line += "".join(f", {name} {value:.3f}" for name, value in found.items())
        console.print(line, soft_wrap=True)


def main(
    features: Annotated[Path, typer.Option(help="Holds train and val.")],
    backbone: Annotated[Path, typer.Option(help="Weights for timm, for the last norm.")],
    epochs: Annotated[int, typer.Option(help="Over all scenes.")] = 12,
    batch: Annotated[int, typer.Option(help="Scenes in a step.")] = 4,
    lr: Annotated[float, typer.Option(help="Highest.")] = 1e-3,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Train the head."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    kept, val = Kept.of(features / "train"), Kept.of(features / "val")
    run = start(DepthAnything(), epochs * -(-len(kept) // batch), lr, lr)
    train(run, Normed(backbone), kept, val, epochs, batch)


if __name__ == "__main__":
    run_script(main)
