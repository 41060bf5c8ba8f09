"""The shipped models, and scenes that they never saw."""

import numpy as np

from expedite.data.truths import NO_DEPTH, Sample
from expedite.loading import LoadedModel, load_model
from expedite.loading.demo import SCENE_SIZE
from expedite.scenes.scenes import FARTHEST, render_scene, scene_seed

PICTURED = 3  # a scene with something of everything


def demo_model() -> LoadedModel:
    """The shipped Segmenter, trained on generated scenes by `examples/train_demo.py`."""
    return load_model("demo:segmenter")


def demo_depth_model() -> LoadedModel:
    """The shipped DPT, trained on generated scenes by `examples/train_dpt.py`."""
    return load_model("demo:dpt")


def unseen_scenes(count: int) -> list[Sample]:
    """Scenes of a split of their own, which no training rendered, with labels and depth."""
    return [unseen_scene(index) for index in range(count)]


def unseen_scene(index: int) -> Sample:
    """One of them."""
    scene = render_scene(scene_seed("demo", index), SCENE_SIZE)
    return Sample(
        f"scene {index}",
        scene.image,
        labels=scene.labels.astype(np.int64),
        depth=np.where(scene.depth < FARTHEST, scene.depth, np.float32(NO_DEPTH)),
    )
