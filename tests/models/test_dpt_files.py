"""Published DPT files by their own keys and names, and our own with their variant.yml."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from expedite import ExpediteError
from expedite.models.dpt import DPT, DPTConfig
from expedite.models.dpt_files import VARIANTS, Variant, build_dpt, load_dpt, save_dpt

SMALL = Variant(
    DPTConfig(64, 1, 4, (0, 1, 2, 3), (8, 16, 32, 32), (64, 96), fused=16, scale=0.1, shift=0.02),
    (64, 96),
    "scenes",
)


def test_what_is_saved_loads(tmp_path: Path) -> None:
    model = DPT(SMALL.config).eval()
    loaded, variant = load_dpt(save_dpt(model, SMALL, tmp_path))
    assert variant == SMALL
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_names_tell_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    # A hybrid of published keys and few weights: the name alone leads to it.
    config = replace(
        VARIANTS["dpt_hybrid_kitti"].config,
        width=64, heads=1, layers=2, taps=(0, 1), features=(256, 512, 32, 32), fused=16,
        stages=(1, 1, 1), image_size=(64, 64),
    )  # fmt: skip
    monkeypatch.setitem(VARIANTS, "dpt_hybrid_kitti", Variant(config, (352, 1216), "kitti"))
    state = DPT(config).state_dict()
    path = tmp_path / "dpt_hybrid_kitti-cb926ef4.pt"
    torch.save({"model": state, "optimizer": {}} if wrapped else state, path)
    model, variant = load_dpt(path)
    assert variant.image_size == (352, 1216)
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)


def test_the_published_keys() -> None:
    # As listed from the published code, isl-org/DPT: counts, and one of every kind.
    with torch.device("meta"):
        hybrid, large = build_dpt("dpt_hybrid")[0], build_dpt("dpt_large-ade20k")[0]
    assert (len(hybrid.state_dict()), len(large.state_dict())) == (368, 442)
    for name, shape in {
        "pretrained.model.pos_embed": (1, 577, 768),
        "pretrained.model.patch_embed.backbone.stages.2.blocks.8.norm3.bias": (1024,),
        "pretrained.model.patch_embed.proj.weight": (768, 1024, 1, 1),
        "pretrained.model.blocks.11.attn.qkv.bias": (2304,),
        "pretrained.model.head.weight": (1000, 768),
        "pretrained.act_postprocess4.0.project.0.weight": (768, 1536),
        "pretrained.act_postprocess4.4.weight": (768, 768, 3, 3),
        "scratch.layer3_rn.weight": (256, 768, 3, 3),
        "scratch.refinenet4.resConfUnit1.conv2.bias": (256,),
        "scratch.output_conv.4.bias": (1,),
    }.items():
        assert hybrid.state_dict()[name].shape == shape
    assert large.state_dict()["auxlayer.4.weight"].shape == (150, 256, 1, 1)
    assert large.state_dict()["pretrained.act_postprocess1.4.weight"].shape == (256, 256, 4, 4)


def test_names_that_tell_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(DPT(SMALL.config).state_dict(), path)
    with pytest.raises(ExpediteError, match=r"no variant.yml beside it and its name does not beg"):
        load_dpt(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("net_kwargs: {}", "does not describe a DPT"),
        ("net_kwargs: 3\ninference_kwargs: {image_size: [64, 64]}", "does not describe a DPT"),
        ("[1, 2", "not readable as YAML"),
    ],
)
def test_a_wrong_variant(tmp_path: Path, content: str, message: str) -> None:
    path = save_dpt(DPT(SMALL.config), SMALL, tmp_path)
    path.with_name("variant.yml").write_text(content)
    with pytest.raises(ExpediteError, match=message):
        load_dpt(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"taps": [0, 2, 1, 3]}, r"4 from 0 to 3 are due, in rising order"),
        ({"taps": [0, 1, 1, 3]}, r"4 from 0 to 3 are due, in rising order"),
        ({"features": [8, 16, 32]}, r"features=\(8, 16, 32\) was asked of a DPT; 4 integers"),
        ({"image_size": 64}, "image_size=64 was asked of a DPT; 2 integers"),
        ({"width": -64}, r"width=\(-64,\) was asked of a DPT; 1 integer"),
        ({"fused": "x"}, r"fused=\('x',\) was asked"),
        ({"width": 65, "heads": 2}, "a width of 65 was asked for 2 heads"),
        ({"scale": "x"}, "scale='x' was asked of a DPT; a number is due"),
        ({"width": 1 << 40}, "does not describe a DPT: RuntimeError"),
        ({"width": 1 << 70}, "does not describe a DPT: "),
    ],
)
def test_a_variant_that_describes_nothing(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    path = save_dpt(DPT(SMALL.config), SMALL, tmp_path)
    variant = path.with_name("variant.yml")
    content = yaml.safe_load(variant.read_text())
    content["net_kwargs"] |= change
    variant.write_text(yaml.safe_dump(content))
    with pytest.raises(ExpediteError, match=sentence) as error:
        load_dpt(path)
    assert str(variant) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = save_dpt(DPT(replace(SMALL.config, fused=8)), SMALL, tmp_path)
    with pytest.raises(ExpediteError, match=r"do not fit the model: .* of another shape"):
        load_dpt(path)


def test_an_unknown_variant() -> None:
    with pytest.raises(ExpediteError, match="the DPT 'dpt_tiny' was asked; the published ones are"):
        build_dpt("dpt_tiny")
