"""Swin backbones out of published files, and Microsoft's classifiers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import expedite
from expedite import ExpediteError
from expedite.loading import load_model, swin
from expedite.loading.model import Wanted
from tests.hosts import images
from tests.loading.test_checkpoint import Evil
from tests.published_swin import Backbone, published_backbone, published_swin, published_swinv2

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 4]}
SMALL |= {"window_size": 4}

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def model() -> Any:
    """A backbone of four stages with patches of 4 pixels."""
    return published_backbone(patch_size=4, **SMALL).backbone


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a variant as small."""
    monkeypatch.setitem(swin.VARIANTS, "swin_tiny", SMALL)


def prefixed(model: Any, prefix: str = "backbone.") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


def as_arrays(state: dict[str, Tensor]) -> dict[str, Any]:
    """As detectron2 writes its .pkl files."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {"model": arrays, "__author__": "nobody"}


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.0."])
def test_published_backbones(prefix: str, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {**prefixed(model, prefix), "other.bias": torch.zeros(2)}}, path)
    if not prefix:
        torch.save(model.state_dict(), path)
    loaded = load_model(f"swin:{path}")
    for size in ((64, 64), (100, 84)):
        found = loaded.model(images(1, *size)).feature_maps
        for tap, expected in zip(found, model(images(1, *size)).values(), strict=True):
            torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-4)
    assert (loaded.trained, loaded.task, loaded.image_size) == (True, "features", (128, 128))
    assert not loaded.model.training


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_detectron2(protocol: int, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(as_arrays(prefixed(model)), protocol=protocol))
    found = load_model(f"swin:{path}").model(images(1, 64, 64)).feature_maps
    for tap, expected in zip(found, model(images(1, 64, 64)).values(), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-4)


def test_maps_without_a_norm_are_not_put_out(model: Any, tmp_path: Path) -> None:
    state = {name: t for name, t in prefixed(model).items() if ".norm0." not in name}
    torch.save(state, tmp_path / "dino.pth")
    found = expedite.load(f"swin:{tmp_path / 'dino.pth'}")(images(1, 64, 64)).feature_maps
    assert [tap.shape[1] for tap in found] == [32, 64, 128]


def test_a_variant_with_and_without_a_checkpoint(small: None, model: Any, tmp_path: Path) -> None:
    torch.save(prefixed(model), tmp_path / "weights.pth")
    assert not load_model("swin:swin_tiny").trained
    assert load_model("swin:swin_tiny", (64, 96)).image_size == (64, 96)
    assert load_model("swin:swin_tiny", checkpoint=tmp_path / "weights.pth").trained
    message = "which has a Swin of 16 channels and .1, 1, 2, 1. blocks with windows of 4"
    with pytest.raises(ExpediteError, match=message):
        load_model("swin:swin_small", checkpoint=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (published_swin, "swin_tiny_patch4_window7_224", 56),
        (published_swinv2, "swinv2_tiny_window8_256", 64),
    ],
)
def test_microsofts_files_load_into_timms_models(
    make: Any, name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create: Any = timm.create_model
    sizes = {**SMALL, "patch_size": 4, "img_size": 64}
    monkeypatch.setattr("timm.create_model", lambda *args, **more: create(*args, **more, **sizes))
    published = make(**sizes)
    torch.save({"model": published.state_dict()}, tmp_path / "weights.pth")
    loaded = load_model(f"timm:{name}", classes=10, checkpoint=tmp_path / "weights.pth")
    x = images(1, 64, 64)
    torch.testing.assert_close(loaded.model(x), published(x), rtol=1e-4, atol=1e-4)
    assert loaded.trained
    other = make(**{**sizes, "window_size": 2}).state_dict()
    torch.save({"model": other}, tmp_path / "other.pth")
    if make is published_swin:
        with pytest.raises(ExpediteError, match=r"of another shape .*bias_table \(9, 1\) for \(49"):
            load_model(f"timm:{name}", classes=10, checkpoint=tmp_path / "other.pth")


def test_a_classifiers_file_is_no_backbone(tmp_path: Path) -> None:
    torch.save({"model": published_swin().state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match="a classifier's; a model timm:NAME takes it"):
        expedite.load(f"swin:{tmp_path / 'weights.pth'}")


def of_resnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"backbone.stem.conv1.weight": torch.zeros(1)}


def of_two(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, **{f"teacher.{name}": tensor for name, tensor in state.items()}}


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.flatten() for name, tensor in state.items()}


def with_heads_that_do_not_divide(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "backbone.layers.3.blocks.0.attn.relative_position_bias_table"
    return {**state, name: torch.zeros(49, 5)}


def numbers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.sum() for name, tensor in state.items()}


def without_a_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if not name.endswith("blocks.0.norm2.bias")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_resnet, "was asked as a Swin's, and has none among its weights"),
        (of_two, "was asked as a Swin's, and has none among its weights"),
        (flat, "do not fit together to a Swin: ValueError"),
        (with_heads_that_do_not_divide, "to a Swin: ValueError: 16 channels and .1, 1, 2, 5. h"),
        (numbers, "do not fit together to a Swin: "),
        (without_a_norm, r"4 missing \(swin.encoder.layers.0.blocks.0.layernorm_after.bias"),
    ],
)
def test_weights_of_something_else(change: Any, message: str, model: Any, tmp_path: Path) -> None:
    torch.save(change(prefixed(model)), tmp_path / "weights.pth")
    with pytest.raises(ExpediteError, match=message):
        expedite.load(f"swin:{tmp_path / 'weights.pth'}")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    path, owned = tmp_path / "weights.pkl", tmp_path / "owned"
    path.write_bytes(pickle.dumps({"model": Evil(owned)}))
    with pytest.raises(ExpediteError, match=r"was not loaded: it is a pickle of more than"):
        expedite.load(f"swin:{path}")
    assert not owned.exists()


@pytest.mark.parametrize("content", [np.array([{}], dtype=object), np.array(["a"])])
def test_arrays_that_are_no_weights(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {"patch_embed.proj.weight": content}}))
    with pytest.raises(ExpediteError, match="is not a whole checkpoint"):
        expedite.load(f"swin:{path}")


def test_a_truncated_pickle(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(as_arrays(prefixed(model)))[:-1000])
    with pytest.raises(ExpediteError, match="is not a whole checkpoint"):
        expedite.load(f"swin:{path}")


def test_tensors_in_a_file_of_that_name(model: Any, tmp_path: Path) -> None:
    torch.save(prefixed(model), tmp_path / "weights.pkl")
    assert load_model(f"swin:{tmp_path / 'weights.pkl'}").trained


def test_what_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExpediteError, match="nor a variant, which are swin_tiny, swin_small"):
        expedite.load("swin:swin_huge")
    with pytest.raises(ExpediteError, match="'swin:swinv2_large', which reads none"):
        load_model("swin:swinv2_large", checkpoint="weights.pth")
    with pytest.raises(ExpediteError, match="5 classes were asked of 'swin:swin_tiny'"):
        load_model("swin:swin_tiny", classes=5)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExpediteError, match=r"pip install 'expedite-vit\[hf\]'"):
        expedite.load("swin:swin_tiny")


def test_variants_are_the_published_sizes() -> None:
    with torch.device("meta"):
        for sizes in swin.VARIANTS.values():
            state = Backbone(patch_size=4, **sizes).state_dict()
            part = swin.backbone_part(state, Path("weights.pth"))
            found = swin.sizes_of(Wanted.of("swin:FILE"), part, Path("weights.pth"))
            assert {name: found[name] for name in sizes} == sizes
