from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import detection  # type: ignore[import-untyped]

from expedite import ExpediteError
from expedite.data.instances import Instances
from expedite.data.truths import Sample
from expedite.evaluate.predict import predict
from expedite.evaluate.tasks import read_answer, task_of
from expedite.evaluate.tasks.objects import Detection, InstanceSegmentation
from expedite.loading import LoadedModel
from tests.evaluate.tasks.query_outputs import masks_of, output_of

HALF = (0.5, 0.5, 0.5)
FOUND = {
    "boxes": torch.tensor([[1.0, 0.0, 4.0, 2.0], [0.0, 0.0, 1.0, 1.0]]),
    "labels": torch.tensor([3, 90]),
    "scores": torch.tensor([0.9, 0.4]),
}
MASKS = torch.tensor([[[[0.1, 0.9, 0.8, 0.2]] * 2], [[[0.7, 0.5, 0.0, 0.0], [0.0] * 4]]])


def loaded(model: Any = None, **changes: Any) -> LoadedModel:
    return LoadedModel("test", model or torch.nn.Identity(), (64, 64), HALF, HALF, True, **changes)


def test_boxes_and_numbers_of_a_detector() -> None:
    found = read_answer(loaded(), [FOUND], (2, 4))
    assert isinstance(found, Instances)
    assert found.boxes.tolist() == [[1, 0, 3, 2], [0, 0, 1, 1]]
    assert (found.classes.tolist(), found.of_classes, found.masks) == ([3, 90], None, None)
    assert found.areas.tolist() == [6, 1]


def test_masks_of_a_detector_begin_above_a_half() -> None:
    found = read_answer(loaded(), [{**FOUND, "masks": MASKS}], (2, 4))
    assert found.areas.tolist() == [4, 1]
    assert found.boxes.tolist() == [[1, 0, 3, 2], [0, 0, 1, 1]]  # the detector's own


def test_what_is_measured_of_an_output() -> None:
    with_masks = [{**FOUND, "masks": MASKS}]
    queries = output_of([0, 1], masks_of([[0, 1]], 2), classes=2)
    assert Detection.find([FOUND]) is FOUND
    assert InstanceSegmentation.find([FOUND]) is None
    assert Detection.find(with_masks) is InstanceSegmentation.find(with_masks) is with_masks[0]
    assert Detection.find(queries) is Detection.find([FOUND, FOUND]) is None
    assert isinstance(read_answer(loaded(task="instance"), queries, (1, 2)), Instances)
    with pytest.raises(ExpediteError, match="gives list; boxes, labels, scores and masks"):
        read_answer(loaded(task="instance"), [FOUND], (2, 4))


def test_fidelity_takes_sure_detections_for_the_truth() -> None:
    task = InstanceSegmentation()
    answer = task.read([{**FOUND, "masks": MASKS}][0], (2, 4))
    truth = task.as_truth(answer)
    assert truth.classes.tolist() == [3]
    assert truth.masks is not None
    assert len(truth.masks) == 1
    meter = task.meter()
    meter.add(truth, answer)
    values = meter.values()
    assert values["mask_ap"] == values["box_ap"] == pytest.approx(1)
    assert {*values} < {metric.name for metric in task.metrics}
    assert task.protocol() == {"fidelity_score": 0.5}
    assert "0.5" in task.notes()[0]


def test_boxes_alone_are_no_truth_of_masks() -> None:
    sample = Sample("a", np.zeros((2, 4, 3), np.uint8), instances=Detection.read(FOUND, (2, 4)))
    assert Detection().truth(sample) is sample.instances
    with pytest.raises(ExpediteError, match=r"in a have boxes and no masks; .* as detection"):
        InstanceSegmentation().truth(sample)
    assert InstanceSegmentation().truth(Sample("a", sample.image)) is None


@pytest.mark.slow
def test_detectors_get_images_as_they_are() -> None:
    """They resize and normalise themselves, and answer in pixels of what they were given."""
    torch.manual_seed(0)
    network = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=32, max_size=64
    ).eval()
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    model = loaded(network)
    assert task_of(model).name == "instance"
    found = predict(model, network, image)
    with torch.inference_mode():
        (direct,) = network([torch.from_numpy(image).permute(2, 0, 1) / 255])
    assert len(found.classes) == len(direct["labels"]) > 0
    assert found.scores == pytest.approx(direct["scores"].numpy())
    corners = found.boxes[:, :2] + found.boxes[:, 2:]
    assert corners == pytest.approx(direct["boxes"][:, 2:].numpy(), abs=1e-3)
