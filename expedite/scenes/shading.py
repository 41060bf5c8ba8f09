"""Procedural textures and light: from what a pixel sees to its colour.

Which pixel sees what is `rendering`. Colours are linear RGB, 1 at full scale, stored as (3, n).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from expedite.scenes.rendering import Booleans, Floats, Integers

Colour = tuple[float, float, float]
Texture = Literal["plain", "noise", "stripes", "bands", "checks", "bricks", "windows", "sides"]

_LATTICE_SIDE = 32
_LATTICE = np.random.default_rng(0).random((_LATTICE_SIDE,) * 3)


@dataclass(frozen=True)
class Material:
    """Two colours mixed by a texture that repeats every `period` metres."""

    texture: Texture
    colours: tuple[Colour, Colour]
    period: float = 1.0


@dataclass(frozen=True)
class Surface:
    """Seen points of solids and ground, n of them, and how textures lie on them.

    Args:
        points: In the world, (3, n), metres.
        normals: In the world, (3, n), unit length.
        local: In the axes of their own object, (3, n), metres.
        unrolled: Along the surface, (2, n), metres: around and up on a wall, two axes on a floor.
        material: Index of each point's material, (n,).
        footprint: Width of a pixel at the point, (n,), metres.
    """

    points: Floats
    normals: Floats
    local: Floats
    unrolled: Floats
    material: Integers
    footprint: Floats


@dataclass(frozen=True)
class Light:
    """Sun, sky and haze; colours include their strength.

    Args:
        sun: Direction towards the sun, (3,), unit length.
        sunlight: What the sun sends.
        ambient: What the whole sky sends.
        horizon: Sky at the horizon, and haze.
        zenith: Sky overhead.
        clouds: Share of the sky they cover, roughly.
        visibility: Metres after which 63 % is haze.
        shift: Moves the clouds.
    """

    sun: Floats
    sunlight: Colour
    ambient: Colour
    horizon: Colour
    zenith: Colour
    clouds: float
    visibility: float
    shift: float


def value_noise(points: Floats) -> Floats:
    """Smooth noise in [0, 1] that varies over a length of about one, at points (3, n).

    Example:
        >>> value_noise(np.zeros((3, 1))) == value_noise(np.full((3, 1), 32.0))
        array([ True])
    """
    cell = np.floor(points).astype(np.int64)
    inside = points - cell
    x, y, z = inside * inside * (3 - 2 * inside)  # flat at the cell's borders
    low, high = cell % _LATTICE_SIDE, (cell + 1) % _LATTICE_SIDE

    def along_x(j: Integers, k: Integers) -> Floats:
        left = _LATTICE[low[0], j, k]
        mixed: Floats = left + x * (_LATTICE[high[0], j, k] - left)
        return mixed

    near: Floats = along_x(low[1], low[2]) * (1 - y) + along_x(high[1], low[2]) * y
    far: Floats = along_x(low[1], high[2]) * (1 - y) + along_x(high[1], high[2]) * y
    mixed: Floats = near * (1 - z) + far * z
    return mixed


def fractal_noise(points: Floats) -> Floats:
    """Two octaves of `value_noise`, in [0, 1]."""
    return (2 * value_noise(points) + value_noise(points * 2.7 + 11)) / 3


def albedo(surface: Surface, materials: Sequence[Material]) -> Floats:
    """Colours (3, n) under white light."""
    periods = np.array([material.period for material in materials])[surface.material]
    pattern = np.empty(periods.shape)
    codes = np.array([_NAMES.index(m.texture) for m in materials])[surface.material]
    for code in np.unique(codes):
        chosen = codes == code
        u, v = surface.unrolled[:, chosen] / periods[chosen]
        local = surface.local[:, chosen] / periods[chosen]
        pattern[chosen] = _TEXTURES[_NAMES[code]](u, v, local, surface.normals[:, chosen])
    # A pattern finer than two pixels would alias: it fades into a constant mix.
    contrast = np.clip(periods / (2 * surface.footprint) - 0.5, 0, 1)
    contrast[np.isin(codes, [_NAMES.index("plain"), _NAMES.index("sides")])] = 1
    blend = 0.4 + (pattern - 0.4) * contrast
    first: Floats = np.array([material.colours[0] for material in materials])[surface.material].T
    second: Floats = np.array([material.colours[1] for material in materials])[surface.material].T
    grain = 0.8 + 0.4 * fractal_noise(surface.local * 1.7)
    return (first + blend * (second - first)) * grain


def illuminate(surface: Surface, colours: Floats, shadow: Booleans, light: Light) -> Floats:
    """Light (3, n) from points of these colours; `shadow` (n,) is where the sun is hidden."""
    facing: Floats = np.maximum(light.sun @ surface.normals, 0) * ~shadow
    skyward = 0.65 + 0.35 * surface.normals[2]
    lit: Floats = colours * (_column(light.ambient) * skyward + _column(light.sunlight) * facing)
    return lit


def sky(directions: Floats, light: Light) -> Floats:
    """Colours (3, n) of the sky in unit directions (3, n)."""
    x, y, z = directions
    up = np.maximum(z, 0)
    horizon, zenith = _column(light.horizon), _column(light.zenith)
    clear = horizon + np.sqrt(up) * (zenith - horizon)
    overhead = np.stack([x, y, np.zeros_like(x)]) / (up + 0.15) * 1.5 + light.shift
    cover = 0.85 * np.clip(4 * (fractal_noise(overhead) + light.clouds - 1) + 0.5, 0, 1)
    glow: Floats = 0.25 * np.maximum(light.sun @ directions, 0) ** 24
    cloud = 1.1 * light.horizon[1]
    colours: Floats = clear + cover * (cloud - clear) + glow * _column(light.sunlight)
    return colours


def water(points: Floats, view: Floats, footprint: Floats, light: Light) -> Floats:
    """Colours (3, n) of rippled water seen along unit directions `view` (3, n)."""
    calm = np.clip(0.02 / footprint, 0, 1)  # distant ripples average out
    ripple = np.stack([value_noise(points * 1.5), value_noise(points * 1.5 + 7)]) - 0.5
    normals = np.concatenate([0.25 * calm * ripple, np.ones((1, points.shape[1]))])
    normals /= np.linalg.norm(normals, axis=0)
    cosine = (view * normals).sum(0)
    mirrored = view - 2 * cosine * normals
    mirrored[2] = np.abs(mirrored[2])
    share = 0.1 + 0.9 * (1 - np.abs(cosine)) ** 5  # Schlick's form of Fresnel's law
    deep = _column((0.06, 0.14, 0.16)) * _column(light.ambient)
    colours: Floats = sky(mirrored, light) * share + deep * (1 - share)
    return colours


def haze(colours: Floats, distance: Floats, light: Light) -> Floats:
    """Colours (3, n) seen through `distance` (n,) metres of air."""
    clear = np.exp(-distance / light.visibility)
    veiled: Floats = colours * clear + _column(light.horizon) * (1 - clear)
    return veiled


def _column(colour: Colour) -> Floats:
    return np.array(colour, float)[:, None]  # (3, 1)


def _bricks(u: Floats, v: Floats, local: Floats, normals: Floats) -> Floats:
    row = np.floor(2 * v)
    column = np.floor(u + row / 2)
    joint = (u + row / 2 - column < 0.1) | (2 * v - row < 0.2)
    return np.where(joint, 1.0, (3 * column + 2 * row) % 5 / 10)  # bricks differ a little


def _windows(u: Floats, v: Floats, local: Floats, normals: Floats) -> Floats:
    inside = (np.abs(u % 1 - 0.5) < 0.27) & (np.abs(v % 1 - 0.5) < 0.3)
    return np.where(inside & (np.abs(normals[2]) < 0.5), 1.0, 0.0)


# From texture coordinates (n,) and points (3, n), in periods, and normals (3, n) to a share of
# the second colour (n,).
_TEXTURES: dict[Texture, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "plain": lambda u, v, local, normals: np.zeros_like(u),
    "noise": lambda u, v, local, normals: np.clip(3 * fractal_noise(local) - 1, 0, 1),
    "stripes": lambda u, v, local, normals: (u % 1 < 0.35).astype(float),
    "bands": lambda u, v, local, normals: (v % 1 < 0.5).astype(float),
    "checks": lambda u, v, local, normals: (np.floor(2 * u) + np.floor(2 * v)) % 2,
    "bricks": _bricks,
    "windows": _windows,
    "sides": lambda u, v, local, normals: (normals[2] < 0.6).astype(float),
}
_NAMES: tuple[Texture, ...] = tuple(_TEXTURES)
