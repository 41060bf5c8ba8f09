"""Scenes: repeatable, complete, consistent, and readable by the data-set reader."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from expedite.data.datasets import open_folder
from expedite.errors import ExpediteError
from expedite.scenes.scenes import CLASSES, Scene, render_scene, scene_seed, write_scenes

STUFF = [CLASSES.index(name) for name in ("sky", "road", "grass", "water")]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(seed, (48, 72)) for seed in range(40)]


def test_repeatable() -> None:
    first, again, other = (render_scene(seed, (32, 48)) for seed in (3, 3, 4))
    for name in ("image", "labels", "instances", "depth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.labels, other.labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9), st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_any_size(seed: int, size: tuple[int, int]) -> None:
    scene = render_scene(seed, size)
    assert scene.image.shape == (*size, 3)
    assert scene.labels.shape == scene.instances.shape == scene.depth.shape == size
    assert scene.image.dtype == scene.labels.dtype == np.uint8
    assert scene.instances.dtype == np.int32
    assert scene.depth.dtype == np.float32
    assert scene.labels.max() < len(CLASSES)
    assert scene.depth.min() > 0
    np.testing.assert_array_equal(scene.instances == 0, np.isin(scene.labels, STUFF))
    np.testing.assert_array_equal(np.isinf(scene.depth), scene.labels == CLASSES.index("sky"))


def test_size_only_samples_the_world() -> None:
    coarse, fine = render_scene(5, (40, 60)), render_scene(5, (120, 180))
    centres = (slice(1, None, 3), slice(1, None, 3))
    np.testing.assert_array_equal(coarse.labels, fine.labels[centres])
    np.testing.assert_array_equal(coarse.instances, fine.instances[centres])
    np.testing.assert_allclose(coarse.depth, fine.depth[centres], rtol=1e-5)


def test_every_class_is_common(scenes: list[Scene]) -> None:
    counts = np.stack([np.bincount(s.labels.ravel(), minlength=len(CLASSES)) for s in scenes])
    share = counts.sum(0) / counts.sum()
    assert share.min() > 0.02
    assert (counts > 0).mean(0).min() > 0.4


def test_an_instance_has_one_class(scenes: list[Scene]) -> None:
    for scene in scenes:
        for instance in range(1, scene.instances.max() + 1):
            assert len(np.unique(scene.labels[scene.instances == instance])) <= 1


def test_pictures_are_exposed(scenes: list[Scene]) -> None:
    means = [scene.image.mean() for scene in scenes]
    assert min(means) > 60
    assert max(means) < 220
    assert min(scene.image.std() for scene in scenes) > 15


def test_colour_does_not_give_classes_away(scenes: list[Scene]) -> None:
    # A rule that knows the mean colour of every class is right on few of the objects' pixels.
    pixels = np.concatenate([scene.image.reshape(-1, 3) for scene in scenes]).astype(float)
    labels = np.concatenate([scene.labels.ravel() for scene in scenes])
    means = np.stack([pixels[labels == index].mean(0) for index in range(len(CLASSES))])
    guess = np.linalg.norm(pixels[:, None] - means, axis=2).argmin(1)
    objects = ~np.isin(labels, STUFF)
    assert (guess == labels)[objects].mean() < 0.35


def test_written_files_are_read_back(tmp_path: Path) -> None:
    write_scenes(tmp_path, "val", 2, (33, 47), seed=1)
    folder = open_folder(tmp_path, "val")
    assert len(folder) == 2
    for index, sample in enumerate(folder):
        scene = render_scene(scene_seed("val", index, seed=1), (33, 47))
        np.testing.assert_array_equal(sample.labels, scene.labels)
        assert np.abs(sample.image.astype(int) - scene.image).mean() < 4  # JPEG
        depth = np.asarray(Image.open(tmp_path / f"depth/val/{index:05d}.png")) / 1000
        measured = scene.depth < 65.535
        np.testing.assert_allclose(depth[measured], scene.depth[measured], atol=1e-3)
        assert np.all(depth[~measured] == 0)


def test_workers_write_the_same(tmp_path: Path) -> None:
    write_scenes(tmp_path / "one", "train", 3, (16, 16))
    write_scenes(tmp_path / "two", "train", 3, (16, 16), workers=2)
    one = tmp_path / "one"
    written = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(written) == 4 * 3 + 2
    for path in written:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_seeds_are_disjoint() -> None:
    places = [("train", 0), ("train", 1), ("train", 11), ("val", 0), ("val", 1), ("test", 0)]
    seeds = {scene_seed(split, index, seed) for split, seed in places for index in range(1200)}
    assert len(seeds) == len(places) * 1200


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_impossible_size(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="sides at 1"):
        render_scene(0, size)
    with pytest.raises(ExpediteError, match="sides at 1"):
        write_scenes(tmp_path, "train", 1, size)
    assert not list(tmp_path.iterdir())


def test_impossible_seed_and_count(tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="seeds begin at 0"):
        render_scene(-1, (8, 8))
    with pytest.raises(ExpediteError, match="-2 scenes"):
        write_scenes(tmp_path, "train", -2, (8, 8))
