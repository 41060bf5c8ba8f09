"""Made-up street and park scenes with exact class, instance and depth maps, from a seed.

Objects are `scene_objects` and `scene_layout`, geometry is `rendering`, colours are `shading`.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from expedite.errors import ExpediteError
from expedite.scenes.rendering import (
    GROUND,
    NOTHING,
    Booleans,
    Camera,
    Floats,
    Integers,
    by_surface,
    cast,
    in_shadow,
)
from expedite.scenes.scene_layout import World, draw_world
from expedite.scenes.scene_objects import CLASSES, ROAD, WATER
from expedite.scenes.scene_truths import (
    Entry,
    colours_of,
    panoptic_ids,
    segments_of,
    write_annotations,
)
from expedite.scenes.shading import Surface, albedo, haze, illuminate, sky, water

__all__ = ["CLASSES", "FARTHEST", "Scene", "render_scene", "scene_seed", "write_scenes"]

FARTHEST = 65.535  # metres that 16 bits of millimetres reach


@dataclass(frozen=True)
class Scene:
    """A picture with its truth at every pixel centre.

    Args:
        image: RGB, (H, W, 3) uint8.
        labels: Index into `CLASSES`, (H, W) uint8.
        instances: 1, 2, … for the objects, 0 for sky, road, grass and water, (H, W) int32.
        depth: Metres along the optical axis, inf in the sky, (H, W) float32.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32]
    depth: NDArray[np.float32]


def render_scene(seed: int, size: tuple[int, int]) -> Scene:
    """Render the scene of a seed.

    The world depends on the seed alone: another `size` shows it finer, or more or less of its
    sides.

    Args:
        seed: Any integer of 0 or more.
        size: Height and width in pixels.

    Raises:
        ExpediteError: A negative seed or a side below 1.

    Example:
        >>> scene = render_scene(seed=7, size=(48, 64))
        >>> scene.image.shape, scene.labels.shape
        ((48, 64, 3), (48, 64))
        >>> CLASSES[scene.labels[0, 0]]
        'sky'
    """
    if seed < 0 or min(size) < 1:
        raise ExpediteError(
            f"a scene of seed {seed} and size {size} was asked; seeds begin at 0 and sides at 1"
        )
    rng = np.random.default_rng(seed)
    world = draw_world(rng)
    camera = Camera(*world.camera, size=size)
    depth, surface = cast(camera, [part.solid for part in world.parts])
    points = camera.position[:, None, None] + camera.rays * np.where(np.isinf(depth), 0, depth)
    labels = _lookup([part.label for part in world.parts], surface)
    ground = surface == GROUND
    labels[ground] = world.ground.labels(points[:, ground])
    colours = _colours(world, camera, surface, depth, points, labels)
    return Scene(
        image=_photograph(rng, colours),
        labels=labels.astype(np.uint8),
        instances=_lookup([part.instance for part in world.parts], surface).astype(np.int32),
        depth=depth.astype(np.float32),
    )


def scene_seed(split: str, index: int, seed: int = 0) -> int:
    """The seed of a scene of a split; different arguments never share one.

    Example:
        >>> scene_seed("train", 0) == scene_seed("val", 0)
        False
    """
    return int.from_bytes(f"{split}/{seed}/{index}".encode())


def write_scenes(
    root: Path, split: str, count: int, size: tuple[int, int], seed: int = 0, workers: int = 1
) -> None:
    """Render scenes into the layout that `datasets.open_folder` reads.

    `images/SPLIT/NNNNN.jpg`, `annotations/SPLIT/NNNNN.png` with indices into `CLASSES`,
    `depth/SPLIT/NNNNN.png` with millimetres in 16 bits, 0 in the sky and beyond 65.535 m, and as
    COCO has them `panoptic/SPLIT/NNNNN.png` with `panoptic/SPLIT.json`, and `instances/SPLIT.json`.
    Splits never share a scene; scene NNNNN does not depend on `count`.

    Args:
        root: Made if it is missing; files of the same names are replaced.
        split: Name of the split.
        count: How many scenes.
        size: Height and width in pixels.
        seed: Another seed gives other scenes.
        workers: Processes to render with.

    Raises:
        ExpediteError: A negative count or a side below 1.
    """
    if count < 0 or min(size) < 1:
        raise ExpediteError(
            f"{count} scenes of size {size} were asked; counts begin at 0 and sides at 1"
        )
    for folder in (f"{kind}/{split}" for kind in ("images", "annotations", "depth", "panoptic")):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "instances").mkdir(exist_ok=True)
    write = partial(_write_scene, root, split, size, seed)
    if workers <= 1:
        segments = [write(index) for index in range(count)]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            segments = list(pool.map(write, range(count), chunksize=16))
    write_annotations(root, split, size, segments)


def _write_scene(
    root: Path, split: str, size: tuple[int, int], seed: int, index: int
) -> list[Entry]:
    scene = render_scene(scene_seed(split, index, seed), size)
    millimetres = np.where(scene.depth < FARTHEST, scene.depth * 1000, 0).astype(np.uint16)
    name = f"{split}/{index:05d}"
    Image.fromarray(scene.image).save(root / f"images/{name}.jpg", quality=95, subsampling=0)
    Image.fromarray(scene.labels).save(root / f"annotations/{name}.png")
    Image.fromarray(millimetres).save(root / f"depth/{name}.png")
    ids = panoptic_ids(scene.labels, scene.instances)
    Image.fromarray(colours_of(ids)).save(root / f"panoptic/{name}.png")
    return segments_of(ids, scene.labels)


def _lookup(values: list[int], surface: Integers) -> Integers:
    table = np.array([*values, 0, 0])  # ground and sky, at -1 and -2
    return table[surface]


def _colours(
    world: World, camera: Camera, surface: Integers, depth: Floats, points: Floats, labels: Integers
) -> Floats:
    light = world.light
    view = camera.rays / np.linalg.norm(camera.rays, axis=0)  # (3, H, W)
    shadow = in_shadow(camera, [part.solid for part in world.parts], points, light.sun)
    above, wet = surface == NOTHING, labels == WATER
    colours: Floats = np.empty_like(view)
    footprint = depth[~above] / camera.focal
    seen = _describe(world, surface[~above], points[:, ~above], labels[~above], footprint)
    colours[:, ~above] = _land(world, seen, labels[~above], shadow[~above])
    pond = water(points[:, wet], view[:, wet], depth[wet] / camera.focal, light)
    colours[:, wet] = pond * (1 - 0.45 * shadow[wet])
    colours[:, ~above] = haze(colours[:, ~above], depth[~above], light)
    colours[:, above] = sky(view[:, above], light)
    return colours


def _land(world: World, seen: Surface, labels: Integers, shadow: Booleans) -> Floats:
    paint = albedo(seen, [*world.ground.materials, *(part.material for part in world.parts)])
    lines = world.ground.markings(seen.points) * (labels == ROAD)
    lines *= 0.8 * np.clip(0.1 / seen.footprint, 0, 1)
    return illuminate(seen, paint + lines * (0.7 - paint), shadow, world.light)


def _describe(
    world: World, surface: Integers, points: Floats, labels: Integers, footprint: Floats
) -> Surface:
    upward = np.broadcast_to([[0.0], [0.0], [1.0]], points.shape)
    road = labels == ROAD
    unrolled = np.where(road, world.ground.road_axes(points), points[:2])
    found = Surface(
        points, upward.copy(), points.copy(), unrolled, road.astype(np.int64), footprint
    )
    for index, at in by_surface(surface):
        if index == GROUND:
            continue  # described above
        solid = world.parts[index].solid
        found.local[:, at] = solid.local(points[:, at])
        normals = solid.normals(found.local[:, at])
        found.unrolled[:, at] = solid.unroll(found.local[:, at], normals)
        found.normals[:, at] = solid.rotation.T @ normals
        found.material[at] = 2 + index
    return found


def _photograph(rng: Generator, colours: Floats) -> NDArray[np.uint8]:
    padded = np.pad(colours, ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = (padded[:, :-2] + 4 * padded[:, 1:-1] + padded[:, 2:]) / 6
    blurred = (columns[..., :-2] + 4 * columns[..., 1:-1] + columns[..., 2:]) / 6  # the lens
    tones = np.clip(blurred, 0, 1) ** (1 / 2.2)
    noisy = tones + rng.normal(0, rng.uniform(0.005, 0.025), tones.shape)  # the sensor
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
