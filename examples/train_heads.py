"""Train a head that segments CamVid on a frozen DINOv2-S, from tokens that are kept on disk.

    python -m benchmarks.real_weights
    python examples/frozen_features.py --backbone WEIGHTS --data CAMVID --out FEATURES
    python examples/train_heads.py --head linear --features FEATURES/street --backbone WEIGHTS

The backbone does not run here, so that an epoch over all frames takes well under a minute on one
core. The weights go to where `frozen_heads.py` looks for them.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from frozen_features import Kept, Normed
from frozen_heads import CLASSES, HEADS, PATCH, STREET, Head, head_file
from running import console, run_script
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from train_segmenter import print_ious
from training import Run, start, train_epoch

from expedite.data.truths import VOID
from expedite.errors import ExpediteError
from expedite.measure.metrics import Agreement

_ROWS = STREET[0] // PATCH
# CamVid's
NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)


def loss_of(head: Head, norm: Normed, batch: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Cross-entropy in which rare classes weigh more, and what is left of the mean Dice."""
    tokens, truth = batch
    maps = norm.maps(tokens, head.taps, _ROWS)
    fine = [4 * side for side in maps[0].shape[2:]]
    labels = F.interpolate(truth[:, None].float(), fine, mode="nearest-exact")[:, 0].long()
    # Half of the columns cost half in layers and a quarter in attention.
    width = maps[0].shape[3] // 2
    left = int(torch.randint(width + 1, ()))
    maps = [one[..., left : left + width].contiguous() for one in maps]
    labels = labels[..., 4 * left : 4 * (left + width)]
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(maps).float()
    return F.cross_entropy(scores, labels, weight, ignore_index=VOID) + dice_loss(scores, labels)


def dice_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """One less the mean Dice of the classes that a batch has.

    Thin classes count as much as the sky here, as they do in the mean IoU.
    """
    counted = (labels != VOID)[:, None]
    shares = scores.softmax(1) * counted
    truth = F.one_hot(labels.where(labels != VOID, 0), scores.shape[1]).movedim(-1, 1) * counted
    both = (shares * truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3))
    dice = 2 * both / (shares.sum((0, 2, 3)) + there).clamp_min(1)
    return 1 - dice[there > 0].mean()


def class_weights(kept: Kept) -> Tensor:
    """One over the root of how frequent each class is; the mean over pixels is 1."""
    pixels = torch.zeros(CLASSES)
    for path in range(0, len(kept), 4):  # a quarter says enough
        labels = kept[path][1]
        pixels += torch.bincount(labels[labels != VOID].long(), minlength=CLASSES)
    weight = pixels.clamp_min(1).rsqrt()
    return weight * (pixels.sum() / (pixels * weight).sum())


@torch.inference_mode()
def measure(head: Head, norm: Normed, kept: Kept) -> Agreement:
    """Compare what a head says of kept tokens with their labels."""
    head.eval()
    agreement = Agreement(CLASSES)
    for index in range(len(kept)):
        tokens, truth = kept[index]
        scores = head.at_size(norm.maps(tokens[None], head.taps, _ROWS), STREET)
        agreement.add(truth.long(), scores.argmax(1)[0])
    return agreement


def train(
    run: Run[Head], norm: Normed, train: Kept, val: Kept, epochs: int, batch: int, path: Path
) -> None:
    """Train for some epochs, writing the averaged head after each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = class_weights(train)
    while run.epoch < epochs:
        began = time.perf_counter()
        order = torch.Generator().manual_seed(run.epoch)
        batches = DataLoader(train, batch, shuffle=True, generator=order)
        run.model.train()
        loss = train_epoch(
            run, batches, [1] * epochs, lambda one: loss_of(run.model, norm, one, weight)
        )
        line = f"epoch {run.epoch}/{epochs}: loss {loss:.3f}, {time.perf_counter() - began:.0f} s"
        save_file(run.averaged.state_dict(), path)
        if run.epoch % 5 == 0 or run.epoch == epochs:
            line += f", mean IoU {100 * measure(run.averaged, norm, val).mean_iou():.1f} %"
        console.print(line)


def main(
    head: Annotated[str, typer.Option(help=f"One of {', '.join(HEADS)}.")],
    features: Annotated[Path, typer.Option(help="Holds train and val.")],
    backbone: Annotated[Path, typer.Option(help="Weights for timm, for the last norm.")],
    epochs: Annotated[int, typer.Option(help="Over all views.")] = 15,
    batch: Annotated[int, typer.Option(help="Views in a step.")] = 4,
    lr: Annotated[float, typer.Option(help="Highest, of matrices of blocks.")] = 2e-3,
    other_lr: Annotated[float, typer.Option(help="Of everything else.")] = 1e-3,
    views: Annotated[str, typer.Option(help="Which of them, by name.")] = "*",
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Train one head."""
    if head not in HEADS:
        raise ExpediteError(f"the head {head} was asked; there are {', '.join(HEADS)}")
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    norm = Normed(backbone)
    kept, val = Kept.of(features / "train", views), Kept.of(features / "val")
    steps = epochs * -(-len(kept) // batch)
    run = start(HEADS[head](), steps, lr, other_lr)
    train(run, norm, kept, val, epochs, batch, head_file(head))
    print_ious(measure(run.averaged, norm, val), NAMES)


if __name__ == "__main__":
    run_script(main)
