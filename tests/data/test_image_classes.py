from pathlib import Path

import pytest

from expedite import ExpediteError
from expedite.data.layouts import open_data
from expedite.data.truths import ImageClass
from tests.data.coco_data import write_image


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("n02/b.png", "n01/c.png", "n02/a.png", "n10/d.png"):
        write_image(tmp_path / "val" / name, (3, 5))
    samples = open_data(tmp_path, "val", "classification", None)
    assert [(sample.name, sample.image_class) for sample in samples] == [
        ("c", ImageClass(0, 3)),
        ("a", ImageClass(1, 3)),
        ("b", ImageClass(1, 3)),
        ("d", ImageClass(2, 3)),
    ]
    limited = open_data(tmp_path, "val", "classification", None, limit=1)
    assert [sample.image_class for sample in limited] == [ImageClass(0, 3)]


def test_a_class_without_images(tmp_path: Path) -> None:
    (tmp_path / "val/n01").mkdir(parents=True)
    with pytest.raises(ExpediteError, match=r"val/n01 holds no image"):
        open_data(tmp_path, "val", "classification", None)


def test_images_without_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (3, 5))
    (sample,) = open_data(tmp_path, "val", "classification", None)
    assert sample.image_class is None
