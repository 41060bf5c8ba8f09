"""SAM's image encoder, with one block in place of a variant's twelve or more."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import expedite
from expedite import ExpediteError
from expedite.loading import load_model, sam
from tests.hosts import randomized

package: Any = pytest.importorskip("segment_anything")


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `vit_b` with one block, and returns one."""
    build = import_module("segment_anything.build_sam")._build_sam

    def make(checkpoint: None = None) -> Any:
        return build(768, 1, 12, [0], checkpoint)

    monkeypatch.setitem(package.sam_model_registry, "vit_b", make)
    return randomized(make())


@pytest.fixture
def published(shallow: Any, tmp_path: Path) -> Path:
    """A file as SAM's are: the whole model, bare."""
    torch.save(shallow.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    return tmp_path / "sam_vit_b_01ec64.pth"


def test_a_published_file_is_its_image_encoder(shallow: Any, published: Path) -> None:
    loaded = load_model(f"sam:{published}")
    found, expected = loaded.model.state_dict(), shallow.image_encoder.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.trained
    assert loaded.task == "features"
    assert not loaded.model.training
    assert loaded.image_size == (1024, 1024)
    assert loaded.mean == pytest.approx((0.485, 0.456, 0.406))
    assert loaded.deviation == pytest.approx((0.229, 0.224, 0.225), abs=1e-3)


def test_a_variant_with_and_without_a_checkpoint(shallow: Any, published: Path) -> None:
    assert not load_model("sam:vit_b").trained
    loaded = load_model("sam:vit_b", checkpoint=published)
    assert loaded.trained
    assert torch.equal(loaded.model.state_dict()["pos_embed"], shallow.image_encoder.pos_embed)


def test_what_is_saved_of_the_encoder_alone_loads(shallow: Any, tmp_path: Path) -> None:
    torch.save(shallow.image_encoder.state_dict(), tmp_path / "encoder.pth")
    assert load_model(f"sam:{tmp_path / 'encoder.pth'}").trained


@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod.", "model."])
def test_a_whole_model_in_a_wrapper(shallow: Any, tmp_path: Path, wrapper: str) -> None:
    state = {f"{wrapper}{name}": tensor for name, tensor in shallow.state_dict().items()}
    torch.save({"model": state}, tmp_path / "wrapped.pth")
    for loaded in (
        load_model(f"sam:{tmp_path / 'wrapped.pth'}"),
        load_model("sam:vit_b", checkpoint=tmp_path / "wrapped.pth"),
    ):
        positions = loaded.model.state_dict()["pos_embed"]
        assert torch.equal(positions, shallow.image_encoder.pos_embed)


def test_an_encoder_of_512_pixels(tmp_path: Path, shallow: Any) -> None:
    """As training code makes it of 1024: fewer positions, shorter tables in the global block."""
    state = {**shallow.image_encoder.state_dict()}
    state["pos_embed"] = torch.randn(1, 32, 32, 768)
    for name in ("rel_pos_h", "rel_pos_w"):
        state[f"blocks.0.attn.{name}"] = torch.randn(63, 64)
    torch.save(state, tmp_path / "small.pth")
    loaded = load_model(f"sam:{tmp_path / 'small.pth'}")
    assert loaded.image_size == (512, 512)
    assert torch.equal(loaded.model.state_dict()["pos_embed"], state["pos_embed"])
    with torch.inference_mode():
        assert loaded.model(torch.zeros(1, 3, 512, 512)).shape == (1, 256, 32, 32)


def test_a_variant_is_told_by_its_width() -> None:
    with torch.device("meta"):
        for width, name in sam._VARIANTS.items():
            assert package.sam_model_registry[name]().image_encoder.pos_embed.shape[-1] == width


def test_what_is_no_sam(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ExpediteError, match=r"has no channels at 'image_encoder\.pos_embed'"):
        expedite.load(f"sam:{tmp_path / 'other.pth'}")
    with pytest.raises(ExpediteError, match="nor a variant, which are vit_h, vit_l, vit_b"):
        expedite.load("sam:vit_g")


def test_what_cannot_be_chosen(shallow: Any, published: Path) -> None:
    with pytest.raises(ExpediteError, match="takes images of"):
        load_model("sam:vit_b", image_size=(512, 512))
    with pytest.raises(ExpediteError, match="it has none"):
        load_model("sam:vit_b", classes=3)
    with pytest.raises(ExpediteError, match="which brings its own weights"):
        expedite.load(f"sam:{published}", published)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpediteError, match=r"pip install 'expedite-vit\[sam\]'"):
        expedite.load("sam:vit_b")
