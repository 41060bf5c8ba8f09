"""Ray casting against closed forms, and against a slow march along every ray."""

import numpy as np
import pytest

from expedite.scenes.rendering import (
    GROUND,
    NOTHING,
    Booleans,
    Camera,
    Floats,
    Shape,
    Solid,
    cast,
    in_shadow,
)

SHAPES: list[Shape] = ["box", "gable", "frustum", "ellipsoid", "cylinder", "cone"]
CAMERA = Camera(height=2, pitch=0.1, field_of_view=0.9, size=(45, 60))


def is_inside(shape: Shape, points: Floats) -> Booleans:
    """Whether points (3, n) are inside the unit shape, from its description in words."""
    x, y, z = points
    within = np.abs(z) <= 1
    half = (1 - z) / 2  # 1 at the bottom, 0 at the top
    inside = {
        "box": (np.abs(x) <= 1) & (np.abs(y) <= 1),
        "gable": (np.abs(x) <= 1) & (np.abs(y) <= half),
        "frustum": (np.abs(x) <= 0.5 + 0.5 * half) & (np.abs(y) <= 0.8 + 0.2 * half),
        "ellipsoid": x * x + y * y + z * z <= 1,
        "cylinder": x * x + y * y <= 1,
        "cone": np.hypot(x, y) <= half,
    }
    result: Booleans = inside[shape] & within
    return result


def march(camera: Camera, solid: Solid, times: Floats) -> Floats:
    """The first of `times` at which each ray is inside the solid, inf where none is, (H, W)."""
    sin, cos = np.sin(solid.yaw), np.cos(solid.yaw)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    first = np.full(camera.size, np.inf)
    for time in times[::-1]:
        at = camera.position[:, None] + time * camera.rays.reshape(3, -1)
        unit = turn @ (at - np.array(solid.centre)[:, None]) / np.array(solid.half_size)[:, None]
        first[is_inside(solid.shape, unit).reshape(camera.size)] = time
    return first


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("yaw", [0.0, 0.7])
@pytest.mark.parametrize("centre", [(0.3, 6.0, 1.2), (-0.2, 7.0, 4.0)])
def test_march(shape: Shape, yaw: float, centre: tuple[float, float, float]) -> None:
    solid = Solid(shape, centre, (1.6, 1.1, 1.3), yaw)
    times = np.arange(3.5, 10, 0.01)
    depth, surface = cast(CAMERA, [solid])
    marched = march(CAMERA, solid, times)
    seen, met = surface == 0, np.isfinite(marched)
    both = seen & met
    assert both.sum() > 100
    assert np.all(np.abs(marched[both] - depth[both] - 0.005) < 0.006)
    assert np.mean(seen & ~met) < 0.01  # rays inside for less than a step
    assert np.all(depth[~seen & met] < marched[~seen & met])  # hidden by the ground


def test_sphere_depth() -> None:
    ball = Solid("ellipsoid", (0.5, 9, 1.4), (1.4, 1.4, 1.4))
    depth, surface = cast(CAMERA, [ball])
    rays = CAMERA.rays / np.linalg.norm(CAMERA.rays, axis=0)
    offset = CAMERA.position - np.array(ball.centre)
    along = np.tensordot(offset, rays, axes=1)
    root = along**2 - offset @ offset + 1.4**2
    expected = (-along - np.sqrt(np.maximum(root, 0))) / np.linalg.norm(CAMERA.rays, axis=0)
    assert np.array_equal(surface == 0, root > 0)
    np.testing.assert_allclose(depth[root > 0], expected[root > 0], rtol=1e-12)


def test_ground_depth() -> None:
    depth, surface = cast(CAMERA, [])
    rows = (np.arange(45) + 0.5 - 22.5) / CAMERA.focal
    below_horizon = np.arctan(rows) + CAMERA.pitch
    expected = CAMERA.height / np.sin(below_horizon) * np.cos(np.arctan(rows))
    on_ground = below_horizon > 0
    assert np.array_equal(surface[:, 0] == GROUND, on_ground)
    np.testing.assert_allclose(depth[on_ground, 7], expected[on_ground], rtol=1e-9)
    assert np.all(np.isinf(depth[surface == NOTHING]))


def test_nearest_wins_in_any_order() -> None:
    near = Solid("ellipsoid", (0, 6, 1.5), (1, 1, 1))
    far = Solid("box", (0.4, 9, 1.5), (2, 0.5, 1.5))
    depth, surface = cast(CAMERA, [near, far])
    alone, _ = cast(CAMERA, [near])
    behind, _ = cast(CAMERA, [far])
    both, swapped = cast(CAMERA, [far, near])
    overlap = (alone < 8) & (behind < alone + 4) & (behind > 8)
    assert overlap.sum() > 20
    assert np.all(surface[overlap] == 0)
    np.testing.assert_array_equal(depth, np.minimum(alone, behind))
    np.testing.assert_array_equal(depth, both)
    np.testing.assert_array_equal(surface[surface >= 0], 1 - swapped[surface >= 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_normals(shape: Shape) -> None:
    solid = Solid(shape, (0, 7, 1.3), (1.6, 1.1, 1.3), 0.4)
    depth, surface = cast(CAMERA, [solid])
    hit = surface == 0
    points = CAMERA.position[:, None] + CAMERA.rays[:, hit] * depth[hit]
    local = solid.local(points)
    normals = solid.normals(local)
    stretch = np.array(solid.half_size)[:, None]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1)
    outside = is_inside(shape, (local + 1e-6 * normals) / stretch)
    inside = is_inside(shape, (local - 1e-6 * normals) / stretch)
    assert not outside.any()
    assert inside.mean() > 0.97  # at an edge one face's normal may leave through the other


def test_shadow_of_a_sphere_is_a_disc_at_noon() -> None:
    ball = Solid("ellipsoid", (0, 8, 3), (1, 1, 1))
    camera = Camera(height=6, pitch=0.6, field_of_view=0.9, size=(60, 60))
    depth, surface = cast(camera, [ball])
    points = camera.position[:, None, None] + camera.rays * np.where(surface == NOTHING, 0, depth)
    shadow = in_shadow(camera, [ball], points, np.array([0.0, 0.0, 1.0]))
    ground = surface == GROUND
    disc = np.hypot(points[0], points[1] - 8) < 1
    assert disc[ground].sum() > 20
    np.testing.assert_array_equal(shadow[ground], disc[ground])


def test_shadow_falls_away_from_the_sun() -> None:
    post = Solid("box", (0, 8, 1), (0.2, 0.2, 1))
    depth, surface = cast(CAMERA, [post])
    points = CAMERA.position[:, None, None] + CAMERA.rays * np.where(surface == NOTHING, 0, depth)
    shadow = in_shadow(CAMERA, [post], points, np.array([0.6, 0.0, 0.8]))
    x = points[0][shadow & (surface == GROUND)]
    assert x.size > 5
    assert x.min() > -2 * 0.6 / 0.8 - 0.2
    assert x.max() < 0.2


@pytest.mark.parametrize("centre", [(0.0, -5.0, 1.0), (500.0, 5.0, 1.0)])
def test_out_of_sight(centre: tuple[float, float, float]) -> None:
    _, surface = cast(CAMERA, [Solid("box", centre, (1, 1, 1))])
    assert surface.max() == GROUND
