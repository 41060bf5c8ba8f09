from pathlib import Path

import pytest
import torch
import yaml

from expedite.errors import ExpediteError
from expedite.models.segmenter import Segmenter, SegmenterConfig
from expedite.models.segmenter_files import (
    BACKBONES,
    Preprocessing,
    build_segmenter,
    load_segmenter,
    save_segmenter,
)

PREPROCESSING = Preprocessing(
    "deit", im_size=60, window_size=32, window_stride=16, dataset="camvid"
)


def save(folder: Path, **changes: object) -> tuple[Segmenter, Path]:
    config = SegmenterConfig((32, 32), 8, 64, 1, 2, 4, **changes)  # type: ignore[arg-type]
    model = Segmenter(config).eval()
    return model, save_segmenter(model, PREPROCESSING, "some_vit", folder)


@pytest.mark.parametrize(
    "changes", [{}, {"distilled": True}, {"decoder": "linear"}, {"decoder_layers": 1}]
)
def test_what_is_saved_loads_as_the_same_model(tmp_path: Path, changes: dict[str, object]) -> None:
    model, path = save(tmp_path, **changes)
    loaded, preprocessing = load_segmenter(path)
    assert preprocessing == PREPROCESSING
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_384", "deit_tiny_distilled_patch16_224"])
def test_published_backbones_have_the_published_keys(name: str) -> None:
    model, _ = build_segmenter(name, n_cls=3)
    keys = set(model.state_dict())
    assert {"encoder.head.weight", "encoder.pos_embed", "decoder.mask_norm.bias"} <= keys
    assert ("encoder.head_dist.weight" in keys) == name.startswith("deit")
    positions = model.state_dict()["encoder.pos_embed"].shape[1]
    side = BACKBONES[name]["image_size"] // 16
    assert positions == side * side + model.encoder.prefix_tokens


def test_every_published_backbone_can_be_built() -> None:
    assert len(BACKBONES) == 12
    with torch.device("meta"):
        for name in BACKBONES:
            build_segmenter(name)


def test_half_precision_files_load(tmp_path: Path) -> None:
    model, path = save(tmp_path)
    torch.save({"model": {k: v.half() for k, v in model.state_dict().items()}}, path)
    loaded, _ = load_segmenter(path)
    assert loaded.encoder.pos_embed.dtype == torch.float32


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExpediteError, match="which is not a file"):
        load_segmenter(tmp_path / "checkpoint.pth")


def test_a_missing_variant(tmp_path: Path) -> None:
    _, path = save(tmp_path)
    (tmp_path / "variant.yml").unlink()
    with pytest.raises(ExpediteError, match=r"variant\.yml, which is not a file"):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net_kwargs": 3}, "no section 'net_kwargs'"),
        ({"inference_kwargs": {}}, "im_size=None"),
    ],
)
def test_a_variant_with_gaps(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _, path = save(tmp_path)
    variant = yaml.safe_load((tmp_path / "variant.yml").read_text())
    (tmp_path / "variant.yml").write_text(yaml.safe_dump({**variant, **change}))
    with pytest.raises(ExpediteError, match=message):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("decoder", {"name": "deeplab"}, "decoder 'deeplab'"),
        ("normalization", "imagenet", "normalization 'imagenet'"),
        ("image_size", "big", "image_size 'big'"),
        ("n_layers", 0, "n_layers=0"),
    ],
)
def test_a_variant_with_unknown_values(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    _, path = save(tmp_path)
    variant = yaml.safe_load((tmp_path / "variant.yml").read_text())
    variant["net_kwargs"][name] = value
    (tmp_path / "variant.yml").write_text(yaml.safe_dump(variant))
    with pytest.raises(ExpediteError, match=message):
        load_segmenter(path)


def test_a_broken_variant(tmp_path: Path) -> None:
    _, path = save(tmp_path)
    (tmp_path / "variant.yml").write_text("{: :")
    with pytest.raises(ExpediteError, match="not readable as YAML"):
        load_segmenter(path)


def test_an_unknown_backbone() -> None:
    with pytest.raises(ExpediteError, match="'vit_huge' was asked; known are deit_tiny"):
        build_segmenter("vit_huge")


def test_a_size_as_the_published_training_code_dumps_it(tmp_path: Path) -> None:
    model, path = save(tmp_path)
    variant = path.with_name("variant.yml")
    content = yaml.safe_load(variant.read_text())
    content["net_kwargs"]["image_size"] = (32, 32)
    variant.write_text(yaml.dump(content))
    assert "!!python/tuple" in variant.read_text()
    images = torch.randn(1, 3, 32, 48)
    assert torch.equal(load_segmenter(path)[0](images), model(images))
