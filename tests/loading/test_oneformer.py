"""A OneFormer of transformers in the layout of its published folders, told its task in words."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import expedite
from expedite import ExpediteError
from expedite.cli import main
from expedite.evaluate.predict import predict
from expedite.loading import LoadedModel, TaskName, load_model
from expedite.measure.flops import count_flops
from tests.data.coco_data import write_coco_panoptic, write_json
from tests.hosts import images, randomized

hf: Any = transformers
LENGTH = 24  # of a task in tokens
MODELS = {
    "num_queries": 6,
    "hidden_dim": 32,
    "mask_dim": 32,
    "conv_dim": 32,
    "encoder_feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "dim_feedforward": 32,
    "num_attention_heads": 2,
    "task_seq_len": LENGTH,
    "max_seq_len": LENGTH,
    "num_labels": 3,
}


def write_tokenizer(folder: Path) -> None:
    """One that knows every letter, in the files that CLIP's has."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oneformer")
    stages = [f"stage{n}" for n in range(1, 5)]
    swin = hf.SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_features=stages,
    )
    torch.manual_seed(0)
    model = hf.OneFormerForUniversalSegmentation(hf.OneFormerConfig(backbone_config=swin, **MODELS))
    randomized(model).save_pretrained(path)
    write_tokenizer(path)
    said = {
        "image_processor_type": "OneFormerImageProcessor",
        "processor_class": "OneFormerProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        # Names of classes that it would download.
        "class_info_file": "ade20k_panoptic.json",
        "repo_path": "shi-labs/oneformer_demo",
        "num_text": 134,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return load_model(f"hf:{folder}")


def test_what_a_folder_says(loaded: LoadedModel) -> None:
    assert type(loaded.model).__name__ == "OneFormerForUniversalSegmentation"
    assert (loaded.image_size, loaded.mean, loaded.task) == ((64, 64), (0.1, 0.2, 0.3), "panoptic")


@pytest.mark.parametrize(
    ("task", "word"),
    [("panoptic", "panoptic"), ("segmentation", "semantic"), ("instance", "instance")],
)
def test_every_task_gets_its_words(loaded: LoadedModel, task: TaskName, word: str) -> None:
    """As the tokenizer itself has them, with zeros behind."""
    tokenizer = hf.CLIPTokenizer.from_pretrained(loaded.name.removeprefix("hf:"))
    tokens = tokenizer(f"the task is {word}")["input_ids"]
    tokens = torch.tensor([tokens + [0] * (LENGTH - len(tokens))])
    x = images(2, 64, 64)
    with torch.inference_mode():
        found = loaded.for_task(task).model(x)
        told = loaded.model(x, task_inputs=tokens.expand(2, -1))
        again = loaded.model(pixel_values=x)
        other = loaded.for_task("instance" if word == "panoptic" else "panoptic").model(x)
    for name in ("class_queries_logits", "masks_queries_logits"):
        assert torch.equal(found[name], told[name])
        assert torch.equal(found[name], again[name])
        assert not torch.equal(found[name], other[name])


def test_answers_of_every_task(loaded: LoadedModel) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    segments, classes, objects = (
        predict(loaded.for_task(task), loaded.model, image)
        for task in ("panoptic", "segmentation", "instance")
    )
    assert segments.shape == classes.indices.shape == objects.shape == (50, 70)
    assert segments.of_classes == classes.classes == objects.of_classes == 3
    assert objects.masks is not None


def test_other_tasks_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ExpediteError, match="which is for panoptic, segmentation, instance"):
        loaded.for_task("detection")


@pytest.mark.slow
def test_patched_copied_and_counted_it_keeps_its_words(loaded: LoadedModel) -> None:
    x = images(1, 64, 64)
    plain = loaded.model(x).class_queries_logits
    expedite.patch(loaded.model, alpha=2, clusters=2)
    patched = loaded.model(x).class_queries_logits
    assert (patched - plain).abs().max() > 0.1
    copied = copy.deepcopy(loaded.model)(x).class_queries_logits
    torch.testing.assert_close(copied, patched, atol=1e-4, rtol=0)
    assert count_flops(loaded.model, x).total > 0
    assert torch.equal(expedite.unpatch(loaded.model)(x).class_queries_logits, plain)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ExpediteError, match="the files of its tokenizer are due beside"):
        load_model(f"hf:{tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "segmentation", "instance"])
def test_a_sweep_of_every_task(
    task: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_coco_panoptic(tmp_path)
    objects = {"image_id": 42, "category_id": 3, "bbox": [0, 0, 4, 2], "area": 8, "id": 1}
    objects |= {"segmentation": [[0, 0, 4, 0, 4, 2, 0, 2]], "iscrowd": 0}
    image = {"id": 42, "file_name": f"{42:012}.jpg", "height": 2, "width": 4}
    write_json(tmp_path / "annotations/instances_val2017.json", [image], [objects])
    words = ["sweep", f"hf:{folder}", "--data", tmp_path, "--split", "val2017", "--task", task]
    words += ["--out", tmp_path / "out", "--alpha", 2, "--clusters", 2, "--seconds", 0]
    monkeypatch.setattr("sys.argv", ["expedite", *map(str, words), "--device", "cpu", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["rows"]) == 2
    base, row = content["rows"]
    assert base["gflops"] > row["gflops"]
    # With random weights, no query is as sure as panoptic segments have to be.
    assert any(name.startswith("fidelity_") for name in row) == (task != "panoptic")
