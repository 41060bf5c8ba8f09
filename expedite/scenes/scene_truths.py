"""A scene's truth as COCO stores it: panoptic segments, instances as run lengths, categories.

A category's id is its index in `CLASSES`; those of stuff come first.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expedite.scenes.rendering import Booleans
from expedite.scenes.scene_objects import BUILDING, CLASSES

Entry: TypeAlias = dict[str, Any]  # of COCO's json files

CATEGORIES: list[Entry] = [
    {"id": index, "name": name, "isthing": int(index >= BUILDING)}
    for index, name in enumerate(CLASSES)
]


def panoptic_ids(labels: NDArray[np.integer], instances: NDArray[np.integer]) -> NDArray[np.int64]:
    """One id for each segment, (H, W): a class of stuff is one segment, an object another."""
    return np.where(instances > 0, len(CLASSES) + instances, 1 + labels.astype(np.int64))


def colours_of(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ids (H, W) as COCO's colours (H, W, 3): id = R + 256 G + 256² B."""
    return np.stack([ids, ids >> 8, ids >> 16], axis=-1).astype(np.uint8)


def segments_of(ids: NDArray[np.int64], labels: NDArray[np.integer]) -> list[Entry]:
    """COCO's `segments_info` of one image, things with their run lengths besides.

    Args:
        ids: Of the segments, (H, W).
        labels: Indices into `CLASSES`, (H, W).
    """
    segments = []
    for number in np.unique(ids):
        mask = ids == number
        category = CATEGORIES[labels[mask][0]]
        segment = {
            "id": int(number),
            "category_id": category["id"],
            "area": int(mask.sum()),
            "bbox": _box_of(mask),
            "iscrowd": 0,
        }
        if category["isthing"]:
            segment["segmentation"] = {"size": list(mask.shape), "counts": pack_mask(mask)}
        segments.append(segment)
    return segments


def _box_of(mask: Booleans) -> list[int]:
    """Left, top, width and height of the pixels of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def pack_mask(mask: Booleans) -> str:
    """A mask (H, W) as COCO's compressed run lengths: down the columns, beginning with zeros.

    From the fourth run on a length is stored as its difference to that two before, five bits a
    character, the lowest first, with a sixth that says whether more follow.
    """
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(changes, prepend=0, append=mask.size)
    runs = runs[:-1] if runs[-1] == 0 else runs
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    characters, more = [], np.ones(len(runs), bool)
    while more.any():
        bits = rest & 31
        rest = rest >> 5
        last = rest == np.where(bits & 16, -1, 0)
        characters.append(np.where(more, 48 + bits + 32 * ~last, 0))
        more = more & ~last
    packed = np.stack(characters, axis=1).astype(np.uint8)
    return packed[packed > 0].tobytes().decode()


def write_annotations(
    root: Path, split: str, size: tuple[int, int], segments: Iterable[list[Entry]]
) -> None:
    """Write `panoptic/SPLIT.json` and `instances/SPLIT.json` of images NNNNN in their order."""
    height, width = size
    images, panoptic, instances = [], [], []
    for index, found in enumerate(segments):
        of_image = {"image_id": index}
        name = f"{index:05d}"
        images.append({"id": index, "file_name": f"{name}.jpg", "height": height, "width": width})
        plain = [{key: s[key] for key in s if key != "segmentation"} for s in found]
        panoptic.append(of_image | {"file_name": f"{name}.png", "segments_info": plain})
        instances += [of_image | s for s in found if "segmentation" in s]
    numbered = [s | {"id": number} for number, s in enumerate(instances, 1)]
    things = [category for category in CATEGORIES if category["isthing"]]
    for kind, annotations, categories in (
        ("panoptic", panoptic, CATEGORIES),
        ("instances", numbered, things),
    ):
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / kind / f"{split}.json").write_text(json.dumps(content))
