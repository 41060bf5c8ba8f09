"""Published files of ViT-Adapters: architectures from shapes, and our own with their variant."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from expedite import ExpediteError
from expedite.models.adapter_files import (
    VARIANTS,
    Variant,
    build_adapter,
    load_adapter,
    save_adapter,
    variant_of,
)
from tests.hosts import ADAPTER, images

# Of two heads of 64 channels, as published ViTs have them.
PUBLISHED = replace(ADAPTER, width=128)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("meta")])
def test_shapes_tell_the_published_architectures(name: str) -> None:
    with torch.device("meta"):
        state = build_adapter(name)[0].state_dict()
    assert variant_of(state, Path(name)) == VARIANTS[name]


def test_a_file_as_published_loads(tmp_path: Path) -> None:
    variant = Variant(PUBLISHED, "upernet", n_cls=3, hidden=8)
    model = variant.build().eval()
    path = tmp_path / "upernet.pth.tar"
    torch.save({"meta": {"CLASSES": ("a", "b", "c")}, "state_dict": model.state_dict()}, path)
    loaded, found = load_adapter(path)
    assert found == variant
    x = images(1, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize("meta", [False, True])
def test_our_own_files_say_what_shapes_do_not(tmp_path: Path, meta: bool) -> None:
    extra = {"value_ratio": 0.25, "extra_extractors": 0} if meta else {"vit_features": "last"}
    config = replace(ADAPTER, **extra)
    variant = Variant(config, "semantic-fpn", n_cls=3, meta=meta)
    model = variant.build().eval()
    loaded, found = load_adapter(save_adapter(model, variant, tmp_path))
    assert found == variant
    x = images(1, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"backbone.level_embed": torch.zeros(3, 8)}}, path)
    with pytest.raises(ExpediteError, match=r"holds no ViT-Adapter under one of the heads"):
        load_adapter(path)
    state = Variant(PUBLISHED, "semantic-fpn", 3).build().state_dict()
    state.pop("backbone.spm.stem.0.weight")
    torch.save(state, path)
    with pytest.raises(ExpediteError, match=r"without 'backbone.spm.stem.0.weight'"):
        load_adapter(path)
    (tmp_path / "variant.yml").write_text(yaml.safe_dump({"config": {"width": 3}}))
    with pytest.raises(ExpediteError, match=r"variant.yml does not describe a ViT-Adapter"):
        load_adapter(path)


def test_an_unknown_architecture() -> None:
    with pytest.raises(ExpediteError, match="the ViT-Adapter 'huge-upernet' was asked; there are"):
        build_adapter("huge-upernet")
