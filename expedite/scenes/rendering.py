"""Ray casting of convex solids on a ground plane: depth, visible surfaces and cast shadows.

Colours are `shading`; what stands where is `scene_layout`. World axes in metres: x right, y away
from the camera, z up; the ground is z = 0.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Window = tuple[slice, slice]
Shape = Literal["box", "gable", "frustum", "ellipsoid", "cylinder", "cone"]

NOTHING, GROUND = -2, -1  # surface indices beside those of the solids
_NEAR = 0.05  # metres

_SIDES = [[1, 0, 0, 1], [-1, 0, 0, 1], [0, 1, 0, 1], [0, -1, 0, 1]]
_CAPS = [[0, 0, 1, 1], [0, 0, -1, 1]]
# Rows (nx, ny, nz, d): the solid is where n·p <= d, for p in [-1, 1]³.
_PLANES: dict[Shape, Floats] = {
    "box": np.array([*_SIDES, *_CAPS], float),
    "gable": np.array([*_SIDES[:2], _CAPS[1], [0, 1, 0.5, 0.5], [0, -1, 0.5, 0.5]], float),
    "frustum": np.array(
        [[1, 0, 0.25, 0.75], [-1, 0, 0.25, 0.75], [0, 1, 0.1, 0.9], [0, -1, 0.1, 0.9], *_CAPS],
        float,
    ),
    "ellipsoid": np.empty((0, 4)),
    "cylinder": np.array(_CAPS, float),
    "cone": np.array(_CAPS, float),
}
# (a, b, c): the solid is where x² + y² + a·z² + b·z + c <= 0; a cone's tip is at z = 1.
_QUADRICS: dict[Shape, tuple[float, float, float]] = {
    "ellipsoid": (1, 0, -1),
    "cylinder": (0, 0, -1),
    "cone": (-0.25, 0.5, -0.25),
}


@dataclass(frozen=True)
class Camera:
    """A pinhole `height` metres above the origin, looking along y and `pitch` radians downwards.

    Args:
        height: Metres above the ground.
        pitch: Radians below the horizon.
        field_of_view: Vertical, in radians.
        size: Height and width of the image in pixels.
    """

    height: float
    pitch: float
    field_of_view: float
    size: tuple[int, int]

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.size[0] / (2 * math.tan(self.field_of_view / 2))

    @property
    def axes(self) -> Floats:
        """The image's right, down and forward directions as rows (3, 3)."""
        sin, cos = np.sin(self.pitch), np.cos(self.pitch)
        return np.array([[1, 0, 0], [0, -sin, -cos], [0, cos, -sin]])

    @property
    def position(self) -> Floats:
        """Where the pinhole is, (3,)."""
        return np.array([0, 0, self.height])

    @cached_property
    def rays(self) -> Floats:
        """Directions (3, H, W) through pixel centres, of length 1 along the optical axis."""
        height, width = self.size
        down = (np.arange(height)[:, None] + 0.5 - height / 2) / self.focal  # (H, 1)
        right = (np.arange(width) + 0.5 - width / 2) / self.focal  # (W,)
        plane = np.stack([*np.broadcast_arrays(right, down), np.ones(self.size)])
        rays: Floats = np.einsum("ij,ihw->jhw", self.axes, plane)
        return rays

    def window(self, points: Floats) -> Window | None:
        """Rows and columns that the hull of points (3, n) can cover; None where it covers none."""
        right, down, depth = self.axes @ (points - self.position[:, None])
        if (depth < _NEAR).all():
            return None
        if (depth < _NEAR).any():
            return slice(0, self.size[0]), slice(0, self.size[1])
        rows = _covered(down / depth * self.focal, self.size[0])
        columns = _covered(right / depth * self.focal, self.size[1])
        empty = rows.start >= rows.stop or columns.start >= columns.stop
        return None if empty else (rows, columns)


def _covered(offsets: Floats, length: int) -> slice:
    low, high = offsets.min() + length / 2, offsets.max() + length / 2
    return slice(max(0, int(low) - 1), min(length, int(np.ceil(high)) + 1))


@dataclass(frozen=True)
class Solid:
    """A unit shape in [-1, 1]³, stretched by `half_size`, turned by `yaw` and moved to `centre`.

    Example:
        >>> ball = Solid("ellipsoid", centre=(0, 10, 2), half_size=(1, 1, 1))
        >>> camera = Camera(height=2, pitch=0, field_of_view=1, size=(33, 33))
        >>> depth, surface = cast(camera, [ball])
        >>> float(depth[16, 16]), int(surface[16, 16])
        (9.0, 0)
    """

    shape: Shape
    centre: tuple[float, float, float]
    half_size: tuple[float, float, float]
    yaw: float = 0.0

    @cached_property
    def rotation(self) -> Floats:
        """World to local axes, (3, 3)."""
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])

    @cached_property
    def corners(self) -> Floats:
        """Corners of the bounding box, (3, 8)."""
        signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)
        local = signs * np.array(self.half_size)[:, None]
        corners: Floats = self.rotation.T @ local + np.array(self.centre)[:, None]
        return corners

    def local(self, points: Floats) -> Floats:
        """Points (3, n) of the world in this solid's axes, in metres from its centre."""
        local: Floats = self.rotation @ (points - np.array(self.centre)[:, None])
        return local

    def crossing(self, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
        """Where rays (3, n) enter and leave, in multiples of `directions`; a miss leaves first."""
        stretch = np.array(self.half_size)[:, None]
        origins = self.local(origins) / stretch
        directions = (self.rotation / stretch) @ directions
        enter, leave = _cross_planes(_PLANES[self.shape], origins, directions)
        if self.shape in _QUADRICS:
            first, last = _cross_quadric(_QUADRICS[self.shape], origins, directions)
            enter, leave = np.maximum(enter, first), np.minimum(leave, last)
        return enter, leave

    def normals(self, local: Floats) -> Floats:
        """Outward unit normals (3, n), in local axes, at points (3, n) of the surface."""
        stretch = np.array(self.half_size)[:, None]
        unit = local / stretch
        planes = _PLANES[self.shape]
        gap = planes[:, :3] @ unit - planes[:, 3:]  # (planes, n), 0 on the plane, negative inside
        normals = planes[:, :3].T[:, gap.argmax(0)] if len(planes) else np.zeros_like(unit)
        if self.shape in _QUADRICS:
            a, b, c = _QUADRICS[self.shape]
            x, y, z = unit
            level = x * x + y * y + a * z * z + b * z + c
            curved = level > gap.max(0, initial=-np.inf)
            normals = np.where(curved, np.stack([2 * x, 2 * y, 2 * a * z + b]), normals)
        normals = normals / stretch
        unit_length: Floats = normals / np.maximum(np.linalg.norm(normals, axis=0), 1e-9)
        return unit_length

    def unroll(self, local: Floats, normals: Floats) -> Floats:
        """Metres around and up, (2, n); along x and y where a flat face looks up or down."""
        x, y, z = local
        if self.shape not in ("box", "gable", "frustum"):
            return np.stack([np.arctan2(y, x) * self.half_size[0], z])
        level = np.abs(normals[2]) > 0.9
        around = y * normals[0] - x * normals[1]
        return np.stack([np.where(level, x, around), np.where(level, y, z)])


def _cross_planes(planes: Floats, origins: Floats, directions: Floats) -> tuple[Floats, Floats]:
    speed = planes[:, :3] @ directions  # (planes, n)
    speed[speed == 0] = 1e-12  # a parallel ray crosses infinitely far away
    times = (planes[:, 3:] - planes[:, :3] @ origins) / speed
    enter = np.where(speed < 0, times, -np.inf).max(0, initial=-np.inf)
    leave = np.where(speed > 0, times, np.inf).min(0, initial=np.inf)
    return enter, leave


def _cross_quadric(
    quadric: tuple[float, float, float], origins: Floats, directions: Floats
) -> tuple[Floats, Floats]:
    a, b, c = quadric
    ox, oy, oz = origins
    dx, dy, dz = directions
    square = dx * dx + dy * dy + a * dz * dz
    square = np.where(square == 0, 1e-12, square)
    half = ox * dx + oy * dy + a * oz * dz + b * dz / 2
    discriminant = half * half - square * (ox * ox + oy * oy + a * oz * oz + b * oz + c)
    middle, reach = -half / square, np.sqrt(np.maximum(discriminant, 0)) / np.abs(square)
    first, last = middle - reach, middle + reach
    # A ray steeper than a cone is inside it beyond its roots: in the lower half while it descends.
    steep = square < 0
    enter = np.where(steep, np.where(dz < 0, last, -np.inf), first)
    leave = np.where(steep, np.where(dz < 0, np.inf, first), last)
    return np.where(discriminant > 0, enter, np.inf), leave


def cast(camera: Camera, solids: Sequence[Solid]) -> tuple[Floats, Integers]:
    """What every pixel centre sees first.

    Returns:
        Depth (H, W): metres along the optical axis, inf in the sky; and surface (H, W): the index
        of a solid, `GROUND` or `NOTHING`, the sky.
    """
    rays = camera.rays
    falling = rays[2] < -1e-9
    depth = np.where(falling, camera.height / np.where(falling, -rays[2], 1), np.inf)
    surface = np.where(falling, GROUND, NOTHING)
    for index, solid in enumerate(solids):
        window = camera.window(solid.corners)
        if window is None:
            continue
        directions = rays[:, *window]  # (3, h, w)
        enter, leave = solid.crossing(camera.position[:, None], directions.reshape(3, -1))
        times = np.where((enter < leave) & (enter > _NEAR), enter, np.inf)
        times = times.reshape(directions.shape[1:])
        nearer = times < depth[window]
        depth[window][nearer] = times[nearer]
        surface[window][nearer] = index
    return depth, surface


def in_shadow(camera: Camera, solids: Sequence[Solid], points: Floats, sun: Floats) -> Booleans:
    """Whether a solid stands between seen points (3, H, W) and the sun, a direction (3,)."""
    shadow = np.zeros(camera.size, bool)
    for solid in solids:
        # Above the ground, shade lies in the hull of a solid and of its shadow on the ground.
        dropped = solid.corners - sun[:, None] * (solid.corners[2] / sun[2])
        window = camera.window(np.concatenate([solid.corners, dropped], axis=1))
        if window is None:
            continue
        seen = points[:, *window]  # (3, h, w)
        enter, leave = solid.crossing(seen.reshape(3, -1), sun[:, None])
        shaded = (enter < leave) & (leave > 1e-3)
        shadow[window] |= shaded.reshape(seen.shape[1:])
    return shadow


def by_surface(surface: Integers) -> Iterator[tuple[int, Integers]]:
    """Every surface index in (n,) with the positions that hold it."""
    order = np.argsort(surface, kind="stable")
    present, starts = np.unique(surface[order], return_index=True)
    return zip(present.tolist(), np.split(order, starts[1:]), strict=True)
