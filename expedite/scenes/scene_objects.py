"""The objects of a made-up scene, each put together from a few solids in random sizes and colours.

Where they stand is `scene_layout`. No colour belongs to one class: buildings, fences, cars, columns
and balls share one palette, trees and grass another.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from expedite.scenes.rendering import Shape, Solid
from expedite.scenes.shading import Colour, Material, Texture

CLASSES = (
    "sky", "road", "grass", "water", "building", "fence", "tree", "car", "column", "ball",
)  # fmt: skip
SKY, ROAD, GRASS, WATER, BUILDING, FENCE, TREE, CAR, COLUMN, BALL = range(len(CLASSES))

PAINTS: tuple[Colour, ...] = (
    (0.75, 0.72, 0.66), (0.55, 0.50, 0.44), (0.28, 0.27, 0.27), (0.50, 0.12, 0.09),
    (0.62, 0.36, 0.16), (0.70, 0.56, 0.20), (0.16, 0.30, 0.17), (0.12, 0.24, 0.45),
    (0.30, 0.45, 0.55), (0.36, 0.20, 0.13), (0.80, 0.80, 0.82), (0.10, 0.10, 0.12),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = (
    (0.10, 0.26, 0.06), (0.16, 0.30, 0.05), (0.24, 0.30, 0.08), (0.06, 0.20, 0.10),
    (0.40, 0.33, 0.08), (0.42, 0.24, 0.06), (0.34, 0.12, 0.07),
)  # fmt: skip
_GLASS: Colour = (0.05, 0.07, 0.09)
_RUBBER: Colour = (0.03, 0.03, 0.03)


@dataclass(frozen=True)
class Part:
    """A solid of one material; the parts of one object share label and instance."""

    solid: Solid
    material: Material
    label: int
    instance: int


@dataclass(frozen=True)
class Spot:
    """A place on the ground where one object is put together; `parts` grows as it is.

    Args:
        label: Class of the object.
        instance: Its number in the scene, 0 for background.
        x: Metres to the right of the camera.
        y: Metres away from the camera.
        yaw: Radians by which the object is turned.
    """

    label: int
    instance: int
    x: float
    y: float
    yaw: float
    parts: list[Part] = field(default_factory=list)

    def put(
        self,
        shape: Shape,
        material: Material,
        size: tuple[float, float, float],
        bottom: float = 0.0,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Add a part of full `size`; `bottom` is its height, `shift` follows the object's axes."""
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        x = self.x + cos * shift[0] - sin * shift[1]
        y = self.y + sin * shift[0] + cos * shift[1]
        half = (size[0] / 2, size[1] / 2, size[2] / 2)
        solid = Solid(shape, (x, y, bottom + half[2]), half, self.yaw)
        self.parts.append(Part(solid, material, self.label, self.instance))


def build_building(spot: Spot, rng: Generator) -> None:
    """A block with windows or bare bricks under a gable or a flat roof."""
    long, wide, high = rng.uniform(6, 14), rng.uniform(5, 10), rng.uniform(3.2, 11)
    wall, cover = two_colours(rng, PAINTS)
    if rng.random() < 0.85:
        walls = Material("windows", (wall, one_colour(rng, PAINTS)), rng.uniform(1.6, 2.6))
    else:
        walls = Material("bricks", (wall, tint(wall, 0.7)), rng.uniform(0.8, 1.4))
    spot.put("box", walls, (long, wide, high))
    roof = Material("bands", (cover, tint(cover, 0.8)), 0.4)
    if rng.random() < 0.6:
        spot.put("gable", roof, (long + 0.6, wide + 0.6, rng.uniform(1.5, 3.5)), bottom=high)
    else:
        spot.put("box", roof, (long + 0.4, wide + 0.4, 0.4), bottom=high)


def build_fence(spot: Spot, rng: Generator) -> None:
    """Planks between two posts."""
    long, high = rng.uniform(4, 9), rng.uniform(1.1, 1.8)
    wood, gap = two_colours(rng, PAINTS)
    planks = Material("stripes", (wood, tint(gap, 0.35)), rng.uniform(0.35, 0.6))
    spot.put("box", planks, (long, 0.15, high))
    for end in (-long / 2, long / 2):
        spot.put("box", Material("plain", (wood, wood)), (0.3, 0.3, high + 0.2), shift=(end, 0))


def build_tree(spot: Spot, rng: Generator) -> None:
    """A trunk under a round canopy or under the three cones of a fir."""
    leaf = one_colour(rng, LEAVES)
    leaves = Material("noise", (tint(leaf, 1.4), tint(leaf, 0.3)), rng.uniform(0.25, 0.5))
    bark = Material("stripes", ((0.20, 0.14, 0.10), (0.10, 0.07, 0.05)), 0.15)
    trunk, width = rng.uniform(0.8, 1.8), rng.uniform(2.6, 5)
    spot.put("cylinder", bark, (0.5, 0.5, trunk + 1))
    if rng.random() < 0.4:
        for level in range(3):
            spread = width * (1 - 0.25 * level)
            bottom = trunk + 0.45 * width * level
            spot.put("cone", leaves, (spread, spread, 0.8 * width), bottom)
        return
    for _ in range(4):
        spread = width * rng.uniform(0.6, 0.9)
        bottom = trunk + width * rng.uniform(0, 0.4)
        shift = (width * rng.uniform(-0.2, 0.2), width * rng.uniform(-0.2, 0.2))
        spot.put("ellipsoid", leaves, (spread, spread, 0.9 * spread), bottom, shift)


def build_car(spot: Spot, rng: Generator) -> None:
    """A body with a glazed cabin on four wheels."""
    paint = one_colour(rng, PAINTS)
    long, high = rng.uniform(3.8, 4.8), rng.uniform(0.55, 0.75)
    spot.put("box", Material("plain", (paint, paint)), (long, 1.8, high), bottom=0.3)
    cabin = (long * rng.uniform(0.55, 0.75), 1.7, 0.65)
    shift = (-0.1 * long, 0.0)
    spot.put("frustum", Material("sides", (paint, _GLASS)), cabin, bottom=0.3 + high, shift=shift)
    tyre = Material("plain", (_RUBBER, _RUBBER))
    for axle in (-0.3 * long, 0.3 * long):
        for side in (-0.85, 0.85):
            spot.put("ellipsoid", tyre, (0.75, 0.3, 0.75), shift=(axle, side))


def build_column(spot: Spot, rng: Generator) -> None:
    """A round shaft on a square foot, most often with a square head."""
    width, high = rng.uniform(0.8, 1.3), rng.uniform(2.6, 5.5)
    stone, other = two_colours(rng, PAINTS)
    texture: Texture = ("bands", "bands", "bricks", "noise")[rng.integers(4)]
    rough = Material("noise", (stone, tint(stone, 0.75)), 0.3)
    slab = (1.5 * width, 1.5 * width, 0.4)
    spot.put("box", rough, slab)
    shaft = Material(texture, (stone, other), rng.uniform(0.6, 1.6))
    spot.put("cylinder", shaft, (width, width, high), bottom=0.4)
    if rng.random() < 0.7:
        spot.put("box", rough, slab, bottom=high + 0.4)


def build_ball(spot: Spot, rng: Generator) -> None:
    """A sphere with stripes, bands, checks or nothing on it."""
    width = rng.uniform(1.2, 2.6)
    texture: Texture = ("stripes", "checks", "bands", "plain")[rng.integers(4)]
    coat = Material(texture, two_colours(rng, PAINTS), rng.uniform(0.6, 1.2))
    spot.put("ellipsoid", coat, (width, width, width))


@dataclass(frozen=True)
class Kind:
    """How a class of objects is scattered.

    Args:
        label: The class.
        at_most: The largest number in one scene.
        near: Metres from the camera of the nearest ones.
        far: Metres from the camera of the farthest ones.
        radius: Metres that others keep away from its centre.
        stands_on: Classes of ground below it.
        build: Puts one together.
    """

    label: int
    at_most: int
    near: float
    far: float
    radius: float
    stands_on: tuple[int, ...]
    build: Callable[[Spot, Generator], None]


KINDS = (
    Kind(BUILDING, 4, 16, 45, 7, (GRASS,), build_building),
    Kind(FENCE, 5, 6, 18, 2.5, (GRASS,), build_fence),
    Kind(TREE, 8, 7, 35, 2, (GRASS,), build_tree),
    Kind(CAR, 5, 6, 22, 2.6, (ROAD, GRASS), build_car),
    Kind(COLUMN, 3, 6, 18, 1, (GRASS, ROAD), build_column),
    Kind(BALL, 5, 5, 16, 1.3, (GRASS, ROAD), build_ball),
)


def one_colour(rng: Generator, palette: tuple[Colour, ...]) -> Colour:
    """Draw a colour."""
    return palette[rng.integers(len(palette))]


def two_colours(rng: Generator, palette: tuple[Colour, ...]) -> tuple[Colour, Colour]:
    """Draw two different colours."""
    first, second = rng.choice(len(palette), 2, replace=False)
    return palette[first], palette[second]


def tint(colour: Colour, factors: ArrayLike) -> Colour:
    """A colour times one factor, or a factor for each of red, green and blue."""
    red, green, blue = (np.array(colour) * factors).tolist()
    return red, green, blue
