"""What stands where in a made-up scene: camera, light, ground and objects from one generator.

The objects themselves are `scene_objects`; how it all looks is `rendering` and `shading`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from expedite.scenes.rendering import Floats, Integers
from expedite.scenes.scene_objects import (
    BUILDING,
    CAR,
    GRASS,
    KINDS,
    LEAVES,
    ROAD,
    TREE,
    WATER,
    Kind,
    Part,
    Spot,
    one_colour,
    tint,
)
from expedite.scenes.shading import Colour, Light, Material, Texture, value_noise

_TARMAC: tuple[Colour, ...] = ((0.16, 0.16, 0.17), (0.30, 0.29, 0.28), (0.40, 0.36, 0.31))
# Objects are spread over pictures up to this many times as wide as high.
_ASPECT = 1.5


@dataclass(frozen=True)
class Ground:
    """Grass with, perhaps, a road and a pond.

    Args:
        heading: Angle of the road from the x axis, in radians.
        offset: Distance of its middle line from the origin, in metres.
        bend: How far it swings to the sides, in metres.
        width: Of the road, in metres; 0 for none.
        lined: Whether lines are painted on the road.
        pond: Centre x, y and the two radii, in metres; radii of 0 for none.
        materials: Of grass and of road.
    """

    heading: float
    offset: float
    bend: float
    width: float
    lined: bool
    pond: tuple[float, float, float, float]
    materials: tuple[Material, Material]

    def road_axes(self, points: Floats) -> Floats:
        """Metres along and across the road, (2, n), of points (3, n)."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        along = cos * points[0] + sin * points[1]
        across = cos * points[1] - sin * points[0] - self.offset
        return np.stack([along, across - self.bend * np.sin(along / 12)])

    def labels(self, points: Floats) -> Integers:
        """Class of the ground at points (3, n)."""
        x, y, radius_x, radius_y = self.pond
        radius = np.hypot(
            (points[0] - x) / max(radius_x, 1e-6), (points[1] - y) / max(radius_y, 1e-6)
        )
        shore = 0.85 + 0.3 * value_noise(points / 4)
        on_road = np.abs(self.road_axes(points)[1]) < self.width / 2
        return np.where(on_road, ROAD, np.where(radius < shore, WATER, GRASS))

    def markings(self, points: Floats) -> Floats:
        """1 where the road is painted with lines, (n,)."""
        if not self.lined:
            return np.zeros(points.shape[1])
        along, across = self.road_axes(points)
        middle = (np.abs(across) < 0.09) & (along % 5 < 2.5)
        edges = np.abs(np.abs(across) - self.width / 2 + 0.35) < 0.07
        return np.where(middle | edges, 1.0, 0.0)


@dataclass(frozen=True)
class World:
    """A scene before it is seen: the camera's height, pitch and field of view, and the rest."""

    camera: tuple[float, float, float]
    light: Light
    ground: Ground
    parts: tuple[Part, ...]


def draw_world(rng: Generator) -> World:
    """Draw a world; it does not depend on the size of the image."""
    camera = (rng.uniform(1.7, 4.5), rng.uniform(-0.02, 0.26), rng.uniform(0.8, 1.1))
    light = _draw_light(rng)
    ground = _draw_ground(rng)
    half_width = _ASPECT * np.tan(camera[2] / 2)
    spots = [*_draw_hills(rng, ground, half_width), *_draw_objects(rng, ground, half_width)]
    return World(camera, light, ground, tuple(part for spot in spots for part in spot.parts))


def _draw_light(rng: Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.1)
    level = np.cos(elevation)
    overcast, warmth, exposure = rng.beta(1, 1.6), rng.uniform(0, 0.35), rng.uniform(0.8, 1.2)
    warm = (1, 0.95 - 0.3 * warmth, 0.85 - 0.7 * warmth)
    blue, grey = np.array([0.16, 0.36, 0.78]), np.array([0.5, 0.5, 0.5])
    return Light(
        sun=np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(elevation)]),
        sunlight=tint(warm, exposure * (1.5 - 1.2 * overcast)),
        ambient=tint((0.9, 1, 1.12), exposure * (0.36 + 0.44 * overcast)),
        horizon=tint((0.66 + 0.12 * warmth, 0.71, 0.78 - 0.3 * warmth), exposure),
        zenith=tint((1, 1, 1), exposure * (blue * (1 - overcast) + grey * overcast)),
        clouds=rng.uniform(0.2, 0.7),
        visibility=float(np.exp(rng.uniform(np.log(70), np.log(900)))),
        shift=rng.uniform(0, 32),
    )


def _draw_ground(rng: Generator) -> Ground:
    ahead = rng.random() < 0.6
    leaf, dry = one_colour(rng, LEAVES[:5]), one_colour(rng, LEAVES[:5])
    patches = tint(leaf, 0.7 + 0.3 * np.array(dry) / np.array(leaf))
    tarmac = one_colour(rng, _TARMAC)
    texture: Texture = ("noise", "noise", "bricks", "checks")[rng.integers(4)]
    pond = (rng.uniform(-12, 12), rng.uniform(8, 22), rng.uniform(5, 13), rng.uniform(4, 9))
    return Ground(
        heading=rng.normal(np.pi / 2, 0.35) if ahead else rng.normal(0, 0.25),
        offset=rng.uniform(-5, 5) if ahead else rng.uniform(5, 14),
        bend=rng.uniform(0, 2.5),
        width=rng.uniform(4.5, 9) if rng.random() < 0.9 else 0.0,
        lined=texture == "noise" and rng.random() < 0.8,
        pond=pond if rng.random() < 0.8 else (0.0, 0.0, 0.0, 0.0),
        materials=(
            Material("noise", (tint(leaf, 1.1), patches), rng.uniform(0.3, 0.8)),
            Material(texture, (tarmac, tint(tarmac, 0.72)), rng.uniform(0.5, 1.2)),
        ),
    )


def _draw_hills(rng: Generator, ground: Ground, half_width: float) -> list[Spot]:
    spots = []
    for _ in range(rng.integers(4)):
        y = rng.uniform(90, 180)
        spot = Spot(GRASS, 0, rng.uniform(-1, 1) * half_width * y, y, yaw=0.0)
        wide, high = rng.uniform(60, 150), rng.uniform(10, 40)
        turf = ground.materials[0]
        spot.put("ellipsoid", Material("noise", turf.colours, 12), (wide, 60, high), -high / 2)
        spots.append(spot)
    return spots


def _draw_objects(rng: Generator, ground: Ground, half_width: float) -> list[Spot]:
    wanted = [kind for kind in KINDS for _ in range(rng.integers(kind.at_most + 1))]
    wanted = [wanted[i] for i in rng.permutation(len(wanted))]
    wanted.sort(key=lambda kind: kind.label != BUILDING)  # wide ones first, while there is room
    spots: list[Spot] = []
    taken: list[tuple[float, float, float]] = []
    for kind in wanted:
        place = _find_place(rng, kind, ground, half_width, taken)
        if place is not None:
            spot = Spot(kind.label, len(spots) + 1, *place, _draw_yaw(rng, kind, ground))
            kind.build(spot, rng)
            spots.append(spot)
            taken.append((*place, kind.radius))
    return spots


def _find_place(
    rng: Generator,
    kind: Kind,
    ground: Ground,
    half_width: float,
    taken: Sequence[tuple[float, float, float]],
) -> tuple[float, float] | None:
    for _ in range(12):
        y = kind.near * (kind.far / kind.near) ** rng.random()
        x = rng.uniform(-1, 1) * half_width * y
        label = ground.labels(np.array([[x], [y], [0.0]]))[0]
        clear = all(np.hypot(x - a, y - b) > kind.radius + radius for a, b, radius in taken)
        if clear and label in kind.stands_on:
            return x, y
    return None


def _draw_yaw(rng: Generator, kind: Kind, ground: Ground) -> float:
    if kind.label == CAR and rng.random() < 0.7:
        return ground.heading + rng.normal(0, 0.1)
    if kind.label in (CAR, TREE):
        return rng.uniform(0, 2 * np.pi)
    return rng.normal(0, 0.5)
