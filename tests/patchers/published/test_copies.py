"""Encoders of SAM, SAM 2 and SAM 3 that other packages have copied, as ultralytics has."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from torch import nn

import expedite
from tests.host_table import called
from tests.hosts import images, randomized, segment_anything_sam
from tests.patchers.promises import equals_the_plain_model, returns_to_what_it_was
from tests.published_sam3 import ViT

pytestmark = pytest.mark.usefixtures("no_gradients")


def copied(model: Any, name: str) -> Any:
    """A model whose classes are of a package that nobody knows, as are those of its blocks."""
    for module in (model, *model.blocks):
        kind = type(module)
        given = name if module is model else kind.__name__
        forward = FunctionType(kind.forward.__code__, kind.forward.__globals__)
        forward.__module__ = "somebody.encoders"
        own = {"forward": forward, "__module__": "somebody.encoders"}
        module.__class__ = type(given, (nn.Module,), own)
    return model


COPIES: dict[str, Callable[[], Any]] = {
    "somebody ImageEncoderViT": lambda: copied(segment_anything_sam(), "ImageEncoderViT"),
    "SAM 3's ViT as published": lambda: randomized(ViT(return_interm_layers=True)),
}


@pytest.mark.parametrize("family", COPIES)
def test_copies_are_known_patched_and_unpatched(family: str) -> None:
    model = COPIES[family]()
    assert expedite.describe(model).family == family
    returns_to_what_it_was(model, images(), called, alpha=1, clusters=(4, 5))


@pytest.mark.parametrize("family", COPIES)
def test_full_windows_without_the_shortcut_equal_the_plain_model(family: str) -> None:
    equals_the_plain_model(COPIES[family](), images(), called, alpha=1, clusters=8)


def with_tables() -> Any:
    model: Any = ViT()
    model.blocks[0].attn.use_rel_pos = True
    return model


@pytest.mark.parametrize(
    "make", [with_tables, lambda: ViT(retain_cls_token=True), lambda: ViT(full_attn_ids=[1])]
)
def test_sam_3_of_another_make_is_refused(make: Callable[[], Any]) -> None:
    model = make()
    with pytest.raises(expedite.ExpediteError, match="an encoder as those of SAM 3 can be patched"):
        expedite.patch(model, alpha=1, clusters=4)
