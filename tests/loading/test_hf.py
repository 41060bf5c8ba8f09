"""Folders of transformers: whole, in shards, and damaged in every way."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import expedite
from expedite import ExpediteError
from expedite.evaluate.predict import predict
from expedite.loading import load_model

KINDS = ("metric", "relative")
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of transformers that segments, saved with its image processor."""
    hf: Any = transformers
    sizes = {**SIZES, "intermediate_size": 64, "image_size": 32, "patch_size": 4}
    config = hf.DPTConfig(
        **sizes, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, num_labels=3
    )
    torch.manual_seed(0)
    hf.DPTForSemanticSegmentation(config).save_pretrained(tmp_path)
    hf.DPTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_transformers(folder: Path) -> None:
    loaded = load_model(f"hf:{folder}")
    assert type(loaded.model).__name__ == "DPTForSemanticSegmentation"
    assert (loaded.image_size, loaded.mean, loaded.deviation) == (
        (32, 32),
        (0.1, 0.2, 0.3),
        (1, 2, 3),
    )
    assert loaded.trained
    prediction = predict(loaded, loaded.model, np.zeros((50, 70, 3), np.uint8))
    assert prediction.indices.shape == (50, 70)
    assert prediction.classes == 3


@pytest.mark.parametrize(
    ("family", "said", "metric"),
    [("DPT", {}, False), ("DepthAnything", {}, False)]
    + [("DepthAnything", {"depth_estimation_type": kind}, kind == "metric") for kind in KINDS],
)
def test_depth_of_transformers_is_relative_unless_it_says_so(
    tmp_path: Path, family: str, said: dict[str, str], metric: bool
) -> None:
    hf: Any = transformers
    sizes = {**SIZES, "image_size": 28, "patch_size": 14}
    stages = {
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    }
    backbone = hf.Dinov2Config(**sizes, **stages, mlp_ratio=2)
    made = getattr(hf, f"{family}Config")(
        **said,
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
    )
    getattr(hf, f"{family}ForDepthEstimation")(made).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert (loaded.task, loaded.metric_depth) == ("depth", metric)
    assert predict(loaded, loaded.model, np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)


def test_a_folder_of_transformers_that_is_damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        load_model(f"hf:{folder}")
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        load_model(f"hf:{folder / 'nothing'}")


def test_a_folder_in_shards(folder: Path, tmp_path: Path) -> None:
    whole: Any = load_model(f"hf:{folder}").model
    shards = tmp_path / "shards"
    whole.save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    x = torch.randn(1, 3, 32, 32)
    again: Any = expedite.load(f"hf:{shards}")
    assert torch.equal(again(x).logits, whole(x).logits)


def test_a_shard_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    whole: Any = load_model(f"hf:{folder}").model
    whole.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        expedite.load(f"hf:{tmp_path / 'shards'}")


def test_weights_that_are_not_there_are_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    dropped = sorted(state)[0]
    save_file({name: state[name] for name in state if name != dropped}, path, {"format": "pt"})
    with pytest.raises(ExpediteError, match=rf"1 missing \({dropped}\)"):
        expedite.load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"intermediate_size": 48}, r"fit a DPTForSemanticSegmentation: \d+ mismatched \(.*dense"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"architectures": ["os"]}, "cannot be loaded"),
        ({"architectures": [3]}, "cannot be loaded"),
        ({"architectures": "DPTForDepthEstimation"}, "cannot be loaded"),
        ({"architectures": ["DPTConfig"]}, r"has the architectures \['DPTConfig'\], and a list of"),
        ({"architectures": ["DPTNothing"]}, "a list of a model class of transformers is due"),
        ({"model_type": "nothing"}, "cannot be loaded"),
    ],
)
def test_a_configuration_that_does_not_fit(
    change: dict[str, Any], sentence: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    capfd.readouterr()
    with pytest.raises(ExpediteError, match=sentence) as error:
        expedite.load(f"hf:{folder}")
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # neither a table nor a progress bar


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_folder_that_runs_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    owned = tmp_path / "owned"
    torch.save({"weight": Evil(owned)}, folder / "pytorch_model.bin")
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        expedite.load(f"hf:{folder}")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(owned)))
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        expedite.load(f"hf:{folder}")
    assert not owned.exists()


def test_a_folder_takes_no_checkpoint(folder: Path) -> None:
    with pytest.raises(ExpediteError, match="which brings its own weights"):
        expedite.load(f"hf:{folder}", folder / "model.safetensors")


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "evil.Own"}}),
        (
            "preprocessor_config.json",
            {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "evil.Own"}},
        ),
    ],
)
def test_code_in_a_folder_is_not_run_whatever_is_answered(
    file: str, changes: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def agree(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr("builtins.input", agree)
    (folder / "evil.py").write_text("open(__file__ + '.owned', 'w')\n\nclass Own:\n    pass\n")
    rewrite(folder / file, **changes)
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        expedite.load(f"hf:{folder}")
    assert asked == []
    assert not list(folder.glob("*.owned"))


def test_depth_of_zoedepth_is_metric(tmp_path: Path) -> None:
    hf: Any = transformers
    backbone = hf.BeitConfig(
        **SIZES,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        use_relative_position_bias=True,
        reshape_hidden_states=False,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = hf.ZoeDepthConfig(
        backbone_config=backbone,
        backbone_hidden_size=32,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        bin_configurations=[{"n_bins": 4, "min_depth": 0.001, "max_depth": 10.0}],
        num_attractors=[4, 2, 2, 1],
    )
    hf.ZoeDepthForDepthEstimation(config).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert (loaded.task, loaded.metric_depth) == ("depth", True)


def test_depth_of_glpn_is_metric(tmp_path: Path) -> None:
    hf: Any = transformers
    config = hf.GLPNConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=8,
        num_attention_heads=[1] * 4,
    )
    hf.GLPNForDepthEstimation(config).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert (loaded.task, loaded.metric_depth) == ("depth", True)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}"])
def test_a_processor_that_is_damaged_is_refused(content: bytes, folder: Path) -> None:
    (folder / "preprocessor_config.json").write_bytes(content)
    if content == b"{}":  # says nothing, so the model's usual processor speaks
        assert load_model(f"hf:{folder}").mean == (0.5, 0.5, 0.5)
        return
    with pytest.raises(ExpediteError, match="cannot be loaded"):
        load_model(f"hf:{folder}")


def test_a_folder_without_a_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    loaded = load_model(f"hf:{folder}")
    assert (loaded.mean, loaded.deviation) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_processor_that_does_not_normalize(folder: Path) -> None:
    rewrite(folder / "preprocessor_config.json", do_normalize=False)
    loaded = load_model(f"hf:{folder}")
    assert (loaded.mean, loaded.deviation) == ((0, 0, 0), (1, 1, 1))
