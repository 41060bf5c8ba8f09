"""Textures and light: their limits, where the right answer is known without them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expedite.scenes.rendering import Floats
from expedite.scenes.shading import (
    Light,
    Material,
    Surface,
    Texture,
    albedo,
    haze,
    illuminate,
    sky,
    value_noise,
)

LIGHT = Light(
    sun=np.array([0.6, 0.0, 0.8]),
    sunlight=(1.0, 0.9, 0.8),
    ambient=(0.3, 0.35, 0.4),
    horizon=(0.7, 0.75, 0.8),
    zenith=(0.2, 0.4, 0.8),
    clouds=0.0,
    visibility=200.0,
    shift=0.0,
)
TEXTURES: list[Texture] = [
    "plain", "noise", "stripes", "bands", "checks", "bricks", "windows", "sides",
]  # fmt: skip


def wall(points: Floats, footprint: float) -> Surface:
    """A wall that faces the camera, all of material 0."""
    count = points.shape[1]
    normals = np.tile([[0.0], [-1.0], [0.0]], count)
    ids, width = np.zeros(count, np.int64), np.full(count, footprint)
    return Surface(points, normals, points, points[[0, 2]], ids, width)


@given(st.integers(0, 2**32 - 1), st.floats(-1e4, 1e4))
def test_noise_is_bounded_and_smooth(seed: int, offset: float) -> None:
    points = np.random.default_rng(seed).normal(offset, 5, (3, 50))
    noise = value_noise(points)
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert np.abs(value_noise(points + 1e-4) - noise).max() < 1e-3


@pytest.mark.parametrize("texture", TEXTURES)
def test_albedo_mixes_the_two_colours(texture: Texture) -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (3, 400))
    material = Material(texture, ((0.2, 0.2, 0.2), (0.6, 0.6, 0.6)), 1.0)
    colours = albedo(wall(points, footprint=1e-3), [material])
    assert colours.min() >= 0.2 * 0.8
    assert colours.max() <= 0.6 * 1.2
    if texture != "plain":
        assert colours.max() > 0.4


@pytest.mark.parametrize("texture", ["stripes", "checks", "bricks", "windows"])
def test_a_pattern_below_the_pixel_size_fades(texture: Texture) -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (3, 400))
    material = Material(texture, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), 0.5)
    near = albedo(wall(points, footprint=0.01), [material])
    far = albedo(wall(points, footprint=2.0), [material])
    assert near.std() > 0.2
    assert far.std() < 0.1


def test_only_what_faces_the_sun_is_lit_by_it() -> None:
    points = np.zeros((3, 3))
    normals = np.array([[0.6, 0, 0.8], [0.6, 0, 0.8], [-0.6, 0, -0.8]]).T
    surface = replace(wall(points, 0.01), normals=normals)
    lit = illuminate(surface, np.ones((3, 3)), np.array([False, True, False]), LIGHT)
    ambient = np.array(LIGHT.ambient) * (0.65 + 0.35 * 0.8)
    np.testing.assert_allclose(lit[:, 0], ambient + np.array(LIGHT.sunlight))
    np.testing.assert_allclose(lit[:, 1], ambient)
    assert np.all(lit[:, 2] < lit[:, 1])


def test_haze_ends_at_the_horizon() -> None:
    colours = np.random.default_rng(0).random((3, 2))
    seen = haze(colours, np.array([0.0, 1e6]), LIGHT)
    np.testing.assert_allclose(seen[:, 0], colours[:, 0])
    np.testing.assert_allclose(seen[:, 1], LIGHT.horizon)


def test_clear_sky_runs_from_horizon_to_zenith() -> None:
    night = replace(LIGHT, sunlight=(0.0, 0.0, 0.0), clouds=-1.0)
    colours = sky(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).T, night)
    np.testing.assert_allclose(colours[:, 0], LIGHT.horizon)
    np.testing.assert_allclose(colours[:, 1], LIGHT.zenith)
