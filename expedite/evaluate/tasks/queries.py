"""Answers of the models of transformers that give masks by query, read by their own processors.

MaskFormer, Mask2Former and OneFormer give scores of classes and a mask for each query; one output
holds an answer for panoptic, instance and semantic segmentation, which the task chooses.
"""

import importlib
import re
from functools import lru_cache
from inspect import signature
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expedite.data.instances import Instances
from expedite.data.segments import Segments
from expedite.errors import ExpediteError

_FIELDS = ("class_queries_logits", "masks_queries_logits")
# As published for all three: the score that a query needs, and how much of its mask must be left.
_SCORE, _LEFT = 0.8, 0.8
# OneFormer's processor gives one map for all; its published code reads them as Mask2Former's.
_INSTANCES_AS = {"OneFormer": "Mask2Former"}


def has_queries(output: Any) -> bool:
    """Whether an output gives masks by query."""
    return all(hasattr(output, name) for name in _FIELDS)


def class_count(output: Any) -> int:
    """How many classes the queries choose from, besides no object."""
    return int(output.class_queries_logits.shape[-1]) - 1


def read_semantic(output: Any, size: tuple[int, int]) -> Tensor:
    """The class of each pixel, (H, W)."""
    found = _process(output, "semantic", _family(output), target_sizes=[size])
    return torch.as_tensor(found)


def read_panoptic(output: Any, size: tuple[int, int]) -> Segments:
    """The segments of an image; several of one class of stuff are not fused yet.

    The processor would fuse them, and then gives the next segment a number that is taken (issue
    23461 of transformers).
    """
    found = _process(
        output,
        "panoptic",
        _family(output),
        threshold=_SCORE,
        overlap_mask_area_threshold=_LEFT,
        label_ids_to_fuse=set(),
        target_sizes=[size],
    )
    classes = {segment["id"]: segment["label_id"] for segment in found["segments_info"]}
    ids = found["segmentation"].numpy().astype(np.int64)
    return Segments.of_ids(ids, classes, class_count(output))


def read_instances(output: Any, size: tuple[int, int]) -> Instances:
    """The objects in an image, one for each query and class that are among the surest.

    Raises:
        ExpediteError: The processor gives one map for all, in which objects cannot overlap.
    """
    family = _INSTANCES_AS.get(_family(output), _family(output))
    process = _processor(family).post_process_instance_segmentation
    if "return_binary_maps" not in signature(process).parameters:
        raise ExpediteError(
            f"the instances of a {type(output).__name__} were asked, whose processor gives no mask "
            "for each; those of MaskFormer, Mask2Former and OneFormer can be read, or its panoptic "
            "segments"
        )
    # No score is too low for average precision, which ranks them.
    settings = {"threshold": 0.0, "return_binary_maps": True, "target_sizes": [size]}
    found = _process(output, "instance", family, **settings)
    segments = found["segments_info"]
    masks = found["segmentation"].numpy() == 1 if segments else np.zeros((0, *size), bool)
    return Instances.of_masks(
        masks,
        np.array([segment["label_id"] for segment in segments], np.int64),
        np.array([segment["score"] for segment in segments], np.float64),
        class_count(output),
    )


def _family(output: Any) -> str:
    return re.split("For(?=[A-Z])", type(output).__name__)[0]


def _process(output: Any, kind: str, family: str, **settings: Any) -> Any:
    fields = {name: getattr(output, name).float().cpu() for name in _FIELDS}
    process = getattr(_processor(family), f"post_process_{kind}_segmentation")
    return process(SimpleNamespace(**fields), **settings)[0]


@lru_cache
def _processor(family: str) -> Any:
    name = f"{family}ImageProcessor"
    transformers = importlib.import_module("transformers")
    if not hasattr(transformers, name):
        raise ExpediteError(
            f"a {family} gives masks by query, and transformers has no {name} to read them; those "
            "of MaskFormer, Mask2Former and OneFormer can be read"
        )
    return getattr(transformers, name)()
