"""A sweep goes on from rows of the same weights and code alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from expedite.loading import load_model
from expedite.loading.fingerprint import digest_of_weights, fingerprint
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from tests.hosts import segmenter

FACTORY = """
import torch
from torch import nn
import {helper}

def net():
    torch.manual_seed(3)
    model = nn.Conv2d(3, 4, 3)
    model.pretrained_cfg = {{"input_size": (3, 8, 8)}}
    return model
"""


def of(spec: str) -> dict[str, str]:
    return fingerprint(load_model(spec), spec)


def saved(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return save_segmenter(segmenter(), Preprocessing("vit", 32, 32, 16, ""), "tiny", folder)


def test_the_same_file_is_the_same_model(tmp_path: Path) -> None:
    spec = f"segmenter:{saved(tmp_path / 'a')}"
    assert of(spec) == of(spec) == of(f"segmenter:{saved(tmp_path / 'b')}")
    assert {*of(spec)} == {"description", "weights"}


def test_other_weights_under_one_name(tmp_path: Path) -> None:
    spec = f"segmenter:{saved(tmp_path)}"
    before = of(spec)
    state = torch.load(tmp_path / "checkpoint.pth")
    state["model"]["decoder.mask_norm.bias"][0] += 1e-6
    torch.save(state, tmp_path / "checkpoint.pth")
    after = of(spec)
    assert before["weights"] != after["weights"]
    assert before["description"] == after["description"]


def test_another_variant_beside_the_same_weights(tmp_path: Path) -> None:
    spec = f"segmenter:{saved(tmp_path)}"
    before = of(spec)
    path = tmp_path / "variant.yml"
    content = yaml.safe_load(path.read_text())
    content["inference_kwargs"]["window_stride"] = 8
    path.write_text(yaml.safe_dump(content))
    after = of(spec)
    assert before["weights"] == after["weights"]
    assert before["description"] != after["description"]


@pytest.mark.parametrize("changed", ["mine", "helper_of_mine"])
def test_other_code_in_a_file_of_ones_own_or_in_what_it_imports(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = f"helper_of_{changed}_test"  # a module is imported once
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{helper}.py").write_text("A = 1\n")
    (tmp_path / "mine.py").write_text(FACTORY.format(helper=helper))
    (tmp_path / "not_imported.py").write_text("")
    spec = f"{tmp_path}/mine.py:net"
    before = of(spec)
    (tmp_path / "not_imported.py").write_text("B = 2\n")
    assert of(spec) == before
    with (tmp_path / f"{'mine' if changed == 'mine' else helper}.py").open("a") as file:
        file.write("# another\n")
    assert of(spec)["description"] != before["description"]


def test_random_weights_tell_nothing() -> None:
    spec = "segmenter:vit_tiny_patch16_384"
    assert {*fingerprint(load_model(spec, (64, 64)), spec)} == {"description"}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.weight.data.mul_(1.001),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.register_buffer("more", torch.zeros(1)),
    ],
)
def test_a_digest_is_of_names_kinds_and_values(
    change: Callable[[torch.nn.Linear], object],
) -> None:
    model = torch.nn.Linear(3, 2)
    before = digest_of_weights(model)
    assert digest_of_weights(model) == before
    change(model)
    assert digest_of_weights(model) != before


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_weights_of_every_kind_have_a_digest() -> None:
    model = torch.nn.Module()
    model.register_buffer(
        "quantised", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    )
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("truths", torch.ones(3, dtype=torch.bool))
    model.register_buffer("nothing", torch.ones(0))
    model.register_buffer("meta", torch.ones(2, device="meta"))
    model.register_buffer("turned", torch.ones(2, 3).T)
    assert digest_of_weights(model) == digest_of_weights(model)
