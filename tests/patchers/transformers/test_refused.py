"""What is said of models that are refused for reasons of their own."""

from typing import Any

import pytest
import transformers
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

import expedite
from expedite import ExpediteError
from expedite.patchers.transformers.refused import REASONS
from tests.patchers.transformers.test_towers import VIT

hf: Any = transformers  # its configs take what their annotations do not show


def segformer() -> Any:
    sizes = {"hidden_sizes": [8, 16, 16, 16], "decoder_hidden_size": 8}
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**sizes))


def timesformer() -> Any:
    return hf.TimesformerModel(hf.TimesformerConfig(**VIT, num_frames=2))


def test_a_segformer_is_told_what_clusters_would_save() -> None:
    with pytest.raises(ExpediteError, match="a SegformerModel was found, whose keys and values"):
        expedite.patch(segformer(), alpha=1, clusters=4)


def test_a_timesformer_is_told_of_its_time() -> None:
    with pytest.raises(ExpediteError, match="a TimesformerModel was found, whose blocks attend"):
        expedite.patch(timesformer(), alpha=1, clusters=4)


def test_an_encoder_of_segmentation_models_pytorch_is_told_the_same() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ExpediteError, match="a MixVisionTransformer was found, whose keys"):
        expedite.patch(smp.Unet("mit_b0", encoder_weights=None), alpha=1, clusters=4)


def test_every_reason_is_of_a_class_of_the_library() -> None:
    of_others = {"MixVisionTransformer"}
    names = REASONS.keys() - of_others
    assert all(hasattr(hf, name) or hasattr(modeling_qwen2_5_vl, name) for name in names)
