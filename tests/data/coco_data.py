"""Small data sets in COCO's form, at the paths where published ones lie."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Entry = dict[str, Any]
# Two things with numbers that leave gaps, out of order, and a piece of stuff.
CATEGORIES: list[Entry] = [
    {"id": 200, "name": "rug", "isthing": 0},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 3, "name": "car", "isthing": 1},
]
IDS = [[1, 1, 70000, 70000], [0, 256, 256, 70000]]
SEGMENTS: list[Entry] = [
    {"id": 1, "category_id": 1, "iscrowd": 0},
    {"id": 256, "category_id": 3, "iscrowd": 1},
    {"id": 70000, "category_id": 200, "iscrowd": 0},
]


def write_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)


def write_segments(path: Path, ids: Sequence[Sequence[int]]) -> None:
    """A number of each pixel as a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.array(ids)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], -1)
    Image.fromarray(colours.astype(np.uint8)).save(path)


def write_json(path: Path, images: Sequence[Entry], annotations: Sequence[Entry]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def write_panoptic(json_path: Path, maps: Path, names: dict[str, tuple[int | str, str]]) -> Path:
    """`names` of PNG files, each with the number and the file name of its image."""
    images, annotations = [], []
    for map_name, (number, file_name) in names.items():
        write_segments(maps / map_name, IDS)
        images.append({"id": number, "file_name": file_name, "height": 2, "width": 4})
        annotations.append({"image_id": number, "file_name": map_name, "segments_info": SEGMENTS})
    return write_json(json_path, images, annotations)


def write_coco_panoptic(root: Path) -> Path:
    """`root` with two images as COCO has them; the json is returned."""
    names: dict[str, tuple[int | str, str]] = {}
    for number in (139, 42):
        write_image(root / f"val2017/{number:012}.jpg", (2, 4))
        names[f"{number:012}.png"] = (number, f"{number:012}.jpg")
    annotations = root / "annotations"
    return write_panoptic(
        annotations / "panoptic_val2017.json", annotations / "panoptic_val2017", names
    )
