"""Train a small Mask R-CNN with a SwinV2 on the objects of generated scenes.

    python examples/train_maskrcnn.py --scenes DIR --work DIR --out DIR

`--out` gets the weights as a plain state dict and `swin_detector.py`, which says what they are of:
`DIR/swin_detector.py:load` to `expedite sweep`. Most images are seen at half size.
"""

import shutil
from pathlib import Path
from typing import TypeAlias

import swin_detector
import torch
import torch.nn.functional as F
from lessons import (
    RENDERED,
    Lesson,
    Out,
    Render,
    Resume,
    Scenes,
    Settings,
    Size,
    Work,
    pictures,
    render_splits,
    resized,
    size_of,
    train,
)
from running import console, run_script
from swin_detector import detector
from torch import Tensor
from torchvision.models.detection import MaskRCNN  # type: ignore[import-untyped]
from torchvision.ops import masks_to_boxes  # type: ignore[import-untyped]
from train_mask2former import COUNTS, read_scene

from expedite.data.instances import Instances
from expedite.evaluate.tasks.objects import InstanceSegmentation
from expedite.scenes.scene_objects import BUILDING

Target: TypeAlias = dict[str, Tensor]
Batch: TypeAlias = tuple[list[Tensor], list[Target]]
SMALLEST = 16  # pixels of an object that is asked for
SETTINGS = Settings(
    sizes=(*(((128, 192),) * 4), *((RENDERED,) * 3)),
    limits=(*((2500,) * 4), *((1600,) * 3)),
    other_lr=1.5e-3,
)


def to_batch(views: list[tuple[Tensor, ...]]) -> Batch:
    """Images (3, H, W) with the objects in them, as detectors of torchvision take them."""
    images = [image for image, _, _ in views]
    return images, [
        objects_of(*at_size(torch.stack(truth), size_of(image))) for image, *truth in views
    ]


def at_size(maps: Tensor, size: Size) -> Tensor:
    """Maps of integers (C, H, W) at another size, (C, h, w)."""
    return F.interpolate(maps[None].double(), size, mode="nearest-exact")[0].long()


def objects_of(segments: Tensor, labels: Tensor) -> Target:
    """Boxes (n, 4), classes (n,) and masks (n, H, W) of the objects, very small ones left out."""
    found, areas = torch.unique(segments[labels >= BUILDING], return_counts=True)
    masks = segments == found[areas >= SMALLEST, None, None]
    classes = torch.tensor([int(labels[mask][0]) for mask in masks], dtype=torch.int64)
    boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return {"boxes": boxes, "labels": classes, "masks": masks.to(torch.uint8)}


def detection_loss(model: MaskRCNN, batch: Batch, bf16: bool) -> Tensor:
    """The sum of the losses of proposals, boxes, classes and masks."""
    images, objects = batch
    with torch.autocast(images[0].device.type, torch.bfloat16, enabled=bf16):
        losses = at_own_size(model, size_of(images[0]))(images, objects)
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def at_own_size(model: MaskRCNN, size: Size) -> MaskRCNN:
    """Make a detector take images of a size as they are; returns it."""
    model.transform.min_size, model.transform.max_size = (min(size),), max(size)
    return model


@torch.inference_mode()
def measure(model: MaskRCNN, names: list[Path], size: Size) -> dict[str, float]:
    """Average precision of boxes and of masks as COCO has it, from 0 to 1."""
    at_own_size(model, size).eval()
    meter = InstanceSegmentation().meter()
    for path in names:
        image, *maps = read_scene(path)
        objects = objects_of(*at_size(torch.stack(maps), size))
        truth = Instances.of_masks(objects["masks"].numpy() == 1, objects["labels"].numpy())
        (answer,) = model([resized(image, size)])
        meter.add(truth, InstanceSegmentation.read(answer, size))
    values = meter.values()
    return {"box AP": values["box_ap"], "mask AP": values["mask_ap"]}


def store(model: MaskRCNN, out: Path) -> None:
    """Write the weights as float16, and the file that says what they are of."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(swin_detector.__file__, out)
    torch.save(model.half().state_dict(), out / "model.pth")


LESSON = Lesson(read_scene, detection_loss, measure, to_batch)


def main(
    scenes: Scenes, work: Work, out: Out, render: Render = True, resume: Resume = False
) -> None:
    """Render, train, store as float16 and measure on scenes seen in no way before."""
    render_splits(scenes, COUNTS if render else {})
    torch.manual_seed(0)
    model = train(LESSON, scenes, SETTINGS, detector(), work, resume)
    store(model, out)
    console.print(measure(model.float(), pictures(scenes, "test"), RENDERED))


if __name__ == "__main__":
    run_script(main)
