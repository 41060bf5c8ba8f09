from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import expedite
from expedite.data.coco_files import Category, PanopticRule
from expedite.data.segments import Segments
from expedite.data.truths import LabelRule, Sample
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import read_answer, task_of
from expedite.evaluate.tasks.panoptic import Panoptic
from expedite.loading import LoadedModel
from tests.evaluate.tasks.query_outputs import masks_of, output_of
from tests.patchers.transformers.test_swin import mask2former

HALF = (0.5, 0.5, 0.5)
IMAGE = np.zeros((1, 4, 3), np.uint8)


def segments(row: list[int], classes: list[int]) -> Segments:
    return Segments.of_ids(np.array([row]), dict(enumerate(classes)), of_classes=3)


def test_qualities_of_all_of_things_and_of_stuff() -> None:
    task = Panoptic(stuff=frozenset({0}))
    meter = task.meter()
    truth = task.truth(Sample("a", IMAGE, panoptic=segments([0, 0, 1, 2], [0, 1, 1])))
    meter.add(truth, segments([0, 1, 2, 2], [0, 0, 1]))  # two pieces of stuff
    values = meter.values()
    # Stuff is found whole when fused; the thing's IoU is 1/2.
    assert values == {"pq": 0.5, "sq": 0.5, "rq": 0.5, "pq_things": 0, "pq_stuff": 1}
    assert list(values) == [metric.name for metric in Panoptic.metrics]


def test_an_answer_is_its_own_truth() -> None:
    task, answer = Panoptic(frozenset({0})), segments([0, 1, -1, 2], [0, 0, 1])
    meter = task.meter()
    meter.add(task.as_truth(answer), answer)
    assert meter.values()["pq"] == 1
    assert task.truth(Sample("a", IMAGE)) is None
    assert task.meter().values() == {}


def test_where_nobody_says_what_is_stuff_nothing_is_fused() -> None:
    meter = Panoptic().meter()
    meter.add(segments([0, 0], [0]), segments([0, 1], [0, 0]))  # two halves
    assert meter.values() == {"pq": 0, "sq": 0, "rq": 0}
    assert "no segments were fused" in Panoptic().notes()[-1]
    assert "no segments were fused" not in " ".join(Panoptic(frozenset({0})).notes())


def test_the_data_say_what_is_stuff() -> None:
    rule = PanopticRule(Path(), [Category(3, True), Category(9, False)], {})
    task = Panoptic().on(rule)
    assert task.stuff == {1}
    assert task.protocol() == {"stuff": [1]}
    assert task.on(None).stuff == task.on(LabelRule()).stuff == {1}


def test_masks_by_query_are_panoptic_unless_something_else_is_said() -> None:
    model = LoadedModel("test", mask2former(), (64, 64), HALF, HALF, trained=True)
    assert task_of(model).name == "panoptic"
    output = output_of([2, 0], masks_of([[0, 1]], 2), classes=3)
    assert isinstance(read_answer(model, output, (1, 2)), Segments)
    semantic = replace(model, task="segmentation")
    assert task_of(semantic).name == "segmentation"
    answer = read_answer(semantic, output, (1, 2))
    assert (answer.indices.tolist(), answer.classes) == ([[2, 0]], 3)


def test_mask2former_against_itself() -> None:
    network = mask2former()
    with torch.no_grad():
        network.class_predictor.weight *= 50  # sure of something
    loaded = LoadedModel("test", network, (64, 64), HALF, HALF, trained=True, task="panoptic")
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    own = predict(loaded, network, image)
    fast = predict(loaded, expedite.patch(network, alpha=2, clusters=3), image)
    assert own.shape == fast.shape == (40, 60)
    qualities = []
    for answer in (own, fast):
        meter = Panoptic(frozenset({3})).meter()
        meter.add(Panoptic(frozenset({3})).as_truth(own), answer)
        qualities.append(meter.values()["pq"])
    assert qualities[0] == 1
    assert 0 <= qualities[1] < 1
