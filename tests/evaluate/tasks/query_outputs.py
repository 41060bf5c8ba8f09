"""Outputs of models that give masks by query, made up so that one knows what they say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SURE = 20.0  # as a logit


def masks_of(rows: Sequence[Sequence[int]], queries: int) -> Tensor:
    """Logits (1, queries, H, W) of masks that share out the pixels."""
    places = torch.tensor(rows)
    inside = torch.stack([places == query for query in range(queries)])
    return torch.where(inside, SURE, -SURE)[None]


def output_of(
    kinds: Sequence[int],
    masks: Tensor,
    classes: int,
    sureness: Sequence[float] | None = None,
    family: str = "Mask2Former",
) -> Any:
    """Query n is of class `kinds[n]`, where `classes` stands for none, as sure as its logit is."""
    logits = torch.zeros(1, len(kinds), classes + 1)
    for query, kind in enumerate(kinds):
        logits[0, query, kind] = sureness[query] if sureness else SURE
    return output_class(family)(class_queries_logits=logits, masks_queries_logits=masks)


def output_class(family: str) -> Any:
    """The class of transformers that a family's output is of."""
    from importlib import import_module

    kind = "Instance" if family == "MaskFormer" else "Universal"
    module = import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
    return getattr(module, f"{family}For{kind}SegmentationOutput")
