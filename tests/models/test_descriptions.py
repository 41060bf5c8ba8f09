"""What files say of models in YAML: tuples are read, other objects of Python are not made."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from expedite import ExpediteError
from expedite.loading import load_model
from expedite.models.adapter_files import Variant, save_adapter
from expedite.models.descriptions import parse_yaml, read_yaml
from expedite.models.dpt import DPT
from expedite.models.dpt_files import save_dpt
from expedite.models.segmenter import Segmenter, SegmenterConfig
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from tests.damaged import ODD_YAML, damaged
from tests.hosts import ADAPTER
from tests.models.test_dpt_files import SMALL


def test_tuples_are_read_at_any_depth() -> None:
    content = {"image_size": (512, 512), "nested": [{"deep": ((1, "a"), [2.5])}], "none": ()}
    assert parse_yaml(yaml.dump(content), "here") == content


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/object/new:os.system ['true']",
        "!!python/object:collections.Counter {}",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/complex 1+2j",
        "!!python/tuple [!!python/name:os.system '']",
        "!!python/tuple {a: 1}",
        "!!python/tuple text",
        "!unknown [1]",
        "{[1]: 2}",
        "{a: 1",
        "2020-99-99",
        "!!int x",
        "*nobody",
        "&a [*a, !!python/tuple [*a]]\n- b",
        "\x00",
    ],
)
def test_nothing_else_of_its_kind_is_made(text: str) -> None:
    with pytest.raises(ExpediteError, match=r"^here is not readable as YAML: ") as error:
        parse_yaml(text, "here")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_what_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExpediteError, match=r"a\.yml is not readable as YAML: UnicodeDecode"):
        read_yaml(tmp_path / "a.yml")
    (tmp_path / "a.yml").write_text("- 1")
    with pytest.raises(ExpediteError, match="holds list, not a mapping of settings"):
        read_yaml(tmp_path / "a.yml")


def save_small_segmenter(folder: Path) -> Path:
    model = Segmenter(SegmenterConfig((32, 32), 8, 64, 1, 1, 4))
    return save_segmenter(model, Preprocessing("deit", 60, 32, 16, "camvid"), "some_vit", folder)


def save_small_adapter(folder: Path) -> Path:
    variant = Variant(ADAPTER, "semantic-fpn", n_cls=3)
    return save_adapter(variant.build(), variant, folder)


SAVES: dict[str, Callable[[Path], Path]] = {
    "segmenter": save_small_segmenter,
    "dpt": lambda folder: save_dpt(DPT(SMALL.config), SMALL, folder),
    "vit_adapter": save_small_adapter,
}


@pytest.mark.parametrize("kind", SAVES)
def test_damaged_variants_end_in_one_sentence(kind: str, tmp_path: Path) -> None:
    """A part left out or replaced by what nobody meant; a sample of about a thousand of these."""
    path = SAVES[kind](tmp_path)
    variant = path.with_name("variant.yml")
    every = [*damaged(yaml.safe_load(variant.read_text()), ODD_YAML)]
    refused = 0
    for content in random.Random(0).sample(every, 40):
        variant.write_text(yaml.dump(content))
        try:
            load_model(f"{kind}:{path}")
        except ExpediteError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 15
