"""`demo:segmenter` and `demo:dpt`, the small models that are shipped, trained on made-up scenes."""

import importlib
from dataclasses import replace
from pathlib import Path

from expedite.errors import ExpediteError
from expedite.loading.model import LoadedModel, Wanted
from expedite.scenes.scene_objects import CLASSES

_ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {name: _ASSETS / f"demo-{name}" / "checkpoint.pth" for name in ("segmenter", "dpt")}
SCENE_SIZE = (256, 384)  # of the scenes that they are shown, in pixels
_SIZES = {"segmenter": SCENE_SIZE}  # one window sees all of a scene


def build(wanted: Wanted) -> LoadedModel:
    if wanted.name not in SHIPPED:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; the models that are shipped are {', '.join(SHIPPED)}"
        )
    wanted.refuse_others()
    source = importlib.import_module(f"expedite.loading.{wanted.name}")
    size = wanted.image_size or _SIZES.get(wanted.name)
    file = replace(wanted, name=str(SHIPPED[wanted.name]), image_size=size)
    loaded: LoadedModel = source.build(file)
    return replace(loaded, class_names=CLASSES) if wanted.name == "segmenter" else loaded
