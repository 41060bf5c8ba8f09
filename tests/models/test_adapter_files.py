"""Published files of ViT-Adapters: architectures from shapes, and our own with their variant."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import expedite
from expedite import ExpediteError
from expedite.models.adapter_config import SIZES, for_detection
from expedite.models.adapter_files import (
    VARIANTS,
    State,
    Variant,
    build_adapter,
    config_of,
    load_adapter,
    save_adapter,
    variant_of,
)
from expedite.models.vit_adapter import ViTAdapter
from tests.hosts import ADAPTER, images
from tests.models.test_query_head import CLASSES, HIDDEN, published_shapes, published_weights
from tests.models.test_query_head import SIZES as SIZES_OF_HEAD

# Of two heads of 64 channels, as published ViTs have them.
PUBLISHED = replace(ADAPTER, width=128)

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("meta")])
def test_shapes_tell_the_published_architectures(name: str) -> None:
    variant = VARIANTS[name]
    with torch.device("meta"):
        state = with_published_head(variant, build_adapter(name)[0].state_dict())
    assert variant_of(state, Path(name)) == variant


def with_published_head(variant: Variant, state: State) -> State:
    """The same with a Mask2Former's head, if there is one, by its published names."""
    if variant.queries is None or variant.hidden is None:
        return state
    sizes = variant.config.width, variant.hidden, variant.n_cls, variant.queries
    head = {f"decode_head.{name}": torch.zeros(shape) for name, shape in published_shapes(*sizes)}
    return {**{name: x for name, x in state.items() if name.startswith("backbone.")}, **head}


def test_windows_of_a_published_beit() -> None:
    config = for_detection(SIZES["beit-large"])
    with torch.device("meta"):
        found = config_of(ViTAdapter(config).state_dict(), "")
    # The size of images leaves no trace, and does not matter: 224 is the tables' 14 tokens.
    assert found == replace(config, image_size=(224, 224))


def test_a_file_as_published_loads(tmp_path: Path) -> None:
    variant = Variant(PUBLISHED, "upernet", n_cls=3, hidden=8)
    model = variant.build().eval()
    path = tmp_path / "upernet.pth.tar"
    torch.save({"meta": {"CLASSES": ("a", "b", "c")}, "state_dict": model.state_dict()}, path)
    loaded, found = load_adapter(path)
    assert found == variant
    x = images(1, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


def test_what_published_beits_compute_may_be_missing(tmp_path: Path) -> None:
    config = replace(PUBLISHED, image_size=(64, 64), beit=True)
    variant = Variant(config, "upernet", n_cls=3, hidden=8, crop=64)
    model = variant.build().eval()
    state = model.state_dict()
    fewer = {name: x for name, x in state.items() if not name.endswith("relative_position_index")}
    assert len(fewer) == len(state) - config.layers
    torch.save({"state_dict": fewer}, tmp_path / "beit.pth")
    loaded, _ = load_adapter(tmp_path / "beit.pth")
    x = images(1, 64, 64)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("beit", [False, True])
def test_backbones_without_layer_scale_load(tmp_path: Path, beit: bool) -> None:
    config = replace(PUBLISHED, layer_scale=False, image_size=(64, 64), beit=beit)
    variant = Variant(config, "upernet", n_cls=3, hidden=8, crop=64 if beit else 512)
    model = variant.build().eval()
    assert not any(name.endswith(("gamma1", "gamma_1")) for name in model.state_dict())
    torch.save({"state_dict": model.state_dict()}, tmp_path / "plain.pth")
    loaded, found = load_adapter(tmp_path / "plain.pth")
    assert found == variant
    x = images(1, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert expedite.patch(loaded, alpha=1, clusters=2)(x).shape == (1, 3, 64, 64)


def test_branches_without_layer_scale_are_those_scaled_by_one() -> None:
    scaled = Variant(PUBLISHED, "upernet", n_cls=3, hidden=8).build().eval()
    plain = Variant(replace(PUBLISHED, layer_scale=False), "upernet", 3, hidden=8).build().eval()
    state = {name: x for name, x in scaled.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(state)
    assert torch.equal(plain(images(1, 64, 64)), scaled(images(1, 64, 64)))


def test_a_file_with_a_published_query_head_loads(tmp_path: Path) -> None:
    variant = Variant(PUBLISHED, "mask2former", n_cls=CLASSES, hidden=HIDDEN, queries=SIZES_OF_HEAD)
    model = variant.build()
    backbone = {name: x for name, x in model.state_dict().items() if name.startswith("backbone.")}
    path = tmp_path / "mask2former.pth"
    torch.save({"state_dict": {**backbone, **published_weights(width=128)}}, path)
    loaded, found = load_adapter(path)
    assert found == variant
    plain = loaded(images(1, 128, 128))
    assert plain.shape == (1, CLASSES, 128, 128)
    patched = expedite.patch(loaded, alpha=1, clusters=4)(images(1, 128, 128))
    assert patched.shape == plain.shape
    assert not torch.allclose(patched, plain)
    assert torch.equal(expedite.unpatch(loaded)(images(1, 128, 128)), plain)
    own = load_adapter(save_adapter(loaded, found, tmp_path / "own"))[0]
    torch.testing.assert_close(own(images(1, 128, 128)), plain)


@pytest.mark.parametrize("meta", [False, True])
def test_our_own_files_say_what_shapes_do_not(tmp_path: Path, meta: bool) -> None:
    extra = {"value_ratio": 0.25, "extra_extractors": 0} if meta else {"vit_features": "last"}
    config = replace(ADAPTER, **extra)
    variant = Variant(config, "semantic-fpn", n_cls=3, hidden=8, meta=meta, dataset="camvid")
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
    query = Variant(PUBLISHED, "mask2former", 3, hidden=HIDDEN, queries=SIZES_OF_HEAD).build()
    backbone = {name: x for name, x in query.state_dict().items() if name.startswith("backbone.")}
    head = published_weights(width=128)
    head.pop("decode_head.query_embed.weight")
    torch.save({**backbone, **head}, path)
    with pytest.raises(ExpediteError, match=r"without 'decode_head.query_embed.weight'"):
        load_adapter(path)
    (tmp_path / "variant.yml").write_text(yaml.safe_dump({"config": {"width": 3}}))
    with pytest.raises(ExpediteError, match=r"variant.yml does not describe a ViT-Adapter"):
        load_adapter(path)


def test_an_unknown_architecture() -> None:
    with pytest.raises(ExpediteError, match="the ViT-Adapter 'huge-upernet' was asked; there are"):
        build_adapter("huge-upernet")
