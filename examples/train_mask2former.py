"""Train a small Mask2Former on generated scenes: one model for classes, objects and both at once.

    python examples/train_mask2former.py --scenes DIR --work DIR --out DIR

The folder in `--out` is one of transformers, and `hf:DIR` to `expedite sweep`. Most images are seen
at half size, where a step costs a third. Beside the matched masks of Mask2Former the features that
masks are drawn from learn the class of every pixel, which gives the backbone something to go by
before the queries have found their objects.

It took 53 minutes on one core of a busy Xeon with bfloat16 units; benchmarks/README.md says what it
came to.
"""

from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
import transformers
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
    read_image,
    read_truth,
    render_splits,
    resized,
    size_of,
    train,
)
from running import console, run_script
from torch import Tensor, nn

from expedite.data.segments import Segments
from expedite.evaluate.tasks.panoptic import Panoptic
from expedite.evaluate.tasks.queries import read_panoptic, read_semantic
from expedite.measure.metrics import Agreement
from expedite.scenes.scene_truths import CATEGORIES
from expedite.scenes.scenes import CLASSES

hf: Any = transformers
COUNTS = {"train": 6000, "val": 100, "test": 200}
STUFF = frozenset(entry["id"] for entry in CATEGORIES if not entry["isthing"])
# Three quarters of the GFLOPs are the backbone's, and two thirds of those its third stage's, whose
# map has 2×3 windows of 8×8 tokens.
BACKBONE = hf.SwinConfig(
    image_size=RENDERED,
    embed_dim=40,
    depths=[1, 1, 8, 1],
    num_heads=[1, 2, 4, 8],
    window_size=8,
    drop_path_rate=0.0,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)
CONFIG = hf.Mask2FormerConfig(
    backbone_config=BACKBONE,
    feature_size=64,
    mask_feature_size=64,
    hidden_dim=64,
    num_attention_heads=4,
    encoder_layers=1,
    encoder_feedforward_dim=128,
    decoder_layers=4,
    dim_feedforward=256,
    num_queries=50,
    train_num_points=1024,
    id2label=dict(enumerate(CLASSES)),
    label2id={name: index for index, name in enumerate(CLASSES)},
)
Batch: TypeAlias = tuple[Tensor, list[Tensor], list[Tensor], Tensor]
SETTINGS = Settings(
    sizes=(*(((128, 192),) * 5), *((RENDERED,) * 4)),
    limits=(*((3000,) * 5), *((2000,) * 4)),
    other_lr=1.5e-3,
)


class Learner(nn.Module):
    """The model, and a head of one layer that classifies its pixels while it learns."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model: Any = hf.Mask2FormerForUniversalSegmentation(config)
        self.dense = nn.Conv2d(config.mask_feature_size, config.num_labels, 1)


def read_scene(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The image (3, H, W) from 0 to 1, segments' ids (H, W) and labels (H, W) of a scene."""
    ids = read_truth(path, "panoptic") @ torch.tensor([1, 256, 256**2])
    return read_image(path), ids, read_truth(path, "annotations")


def to_batch(views: list[tuple[Tensor, ...]]) -> Batch:
    """Images (B, 3, H, W), masks (n, h/2, w/2) and classes (n,) of each, labels (B, h/4, w/4)."""
    images, segments, labels = zip(*views, strict=True)
    found = [
        segments_of(ids[1::2, 1::2], classes[1::2, 1::2])
        for ids, classes in zip(segments, labels, strict=True)
    ]
    masks, classes = map(list, zip(*found, strict=True))
    return torch.stack(images), masks, classes, torch.stack(labels)[:, 2::4, 2::4]


def segments_of(ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (n, H, W) of the segments of an image, and their classes (n,)."""
    masks = ids == torch.unique(ids)[:, None, None]
    return masks.float(), torch.stack([labels[mask][0] for mask in masks])


def panoptic_loss(learner: Learner, batch: Batch, bf16: bool) -> Tensor:
    """Mask2Former's loss, summed over its layers, and four times the cross-entropy of pixels."""
    images, masks, classes, labels = batch
    model = learner.model
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        features = model.model(2 * images - 1, output_hidden_states=True)
        states = features.transformer_decoder_intermediate_states
        scores = [model.class_predictor(state.transpose(0, 1)) for state in states]
        dense = learner.dense(features.pixel_decoder_last_hidden_state)
    predicted = [each.float() for each in features.masks_queries_logits]
    scores = [each.float() for each in scores]
    inner = model.get_auxiliary_logits(scores, predicted)
    matched = model.get_loss_dict(predicted[-1], scores[-1], masks, classes, inner)
    total: Tensor = model.get_loss(matched)
    dense = F.interpolate(dense.float(), labels.shape[-2:], mode="bilinear")
    return total + 4 * F.cross_entropy(dense, labels)


def image_processor() -> Any:
    """What brings images to the model and its answers back."""
    return hf.Mask2FormerImageProcessor(
        size={"height": RENDERED[0], "width": RENDERED[1]},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        ignore_index=255,
        num_labels=len(CLASSES),
    )


@torch.inference_mode()
def measure(learner: Learner, names: list[Path], size: Size) -> dict[str, float]:
    """Mean IoU of the classes and panoptic quality, from 0 to 1."""
    learner.eval()
    classes, segments = Agreement(len(CLASSES)), Panoptic(STUFF).meter()
    for path in names:
        image, ids, labels = read_scene(path)
        answer = learner.model(2 * resized(image, size)[None] - 1)
        classes.add(labels, read_semantic(answer, size_of(ids)))
        found = {int(number): int(labels[ids == number][0]) for number in torch.unique(ids)}
        truth = Segments.of_ids(ids.numpy(), found, len(CLASSES))
        segments.add(truth, read_panoptic(answer, size_of(ids)))
    return {"mIoU": classes.mean_iou(), "PQ": segments.values()["pq"]}


def store(learner: Learner, out: Path) -> None:
    """Write the model as float16, and its image processor, into a folder of transformers."""
    learner.model.half().save_pretrained(out)
    image_processor().save_pretrained(out)


LESSON = Lesson(read_scene, panoptic_loss, measure, to_batch)


def main(
    scenes: Scenes, work: Work, out: Out, render: Render = True, resume: Resume = False
) -> None:
    """Render, train, store as float16 and measure on scenes seen in no way before."""
    render_splits(scenes, COUNTS if render else {})
    torch.manual_seed(0)
    learner = train(LESSON, scenes, SETTINGS, Learner(CONFIG), work, resume)
    store(learner, out)
    console.print(measure(learner.float(), pictures(scenes, "test"), RENDERED))


if __name__ == "__main__":
    run_script(main)
