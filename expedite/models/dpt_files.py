"""The published files of DPT: weights alone, whose architecture the file's name tells.

Source: isl-org/DPT, `run_monodepth.py` and `run_segmentation.py`. Models of other sizes have a
`variant.yml` beside them, as Segmenter's have.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from expedite.errors import ExpediteError
from expedite.models.descriptions import describing, read_yaml, refuse_too_many
from expedite.models.dpt import DPT, DPTConfig, check_integers
from expedite.models.files import filled, read_state_dict, write_checkpoint

_HYBRID = DPTConfig(768, 12, 12, (8, 11), (256, 512, 768, 768), stages=(3, 4, 9))
_LARGE = DPTConfig(1024, 16, 24, (5, 11, 17, 23), (256, 512, 1024, 1024))


@dataclass(frozen=True)
class Variant:
    """A published model: its architecture, the (height, width) of its images, its data set."""

    config: DPTConfig
    image_size: tuple[int, int] = (384, 384)
    dataset: str = ""


# By how the names of the published files begin.
VARIANTS = {
    "dpt_hybrid_kitti": Variant(
        replace(_HYBRID, scale=0.00006016, shift=0.00579), (352, 1216), "kitti"
    ),
    "dpt_hybrid_nyu": Variant(replace(_HYBRID, scale=0.000305, shift=0.1378), (480, 640), "nyu"),
    "dpt_hybrid-ade20k": Variant(replace(_HYBRID, n_cls=150), (480, 480), "ade20k"),
    "dpt_large-ade20k": Variant(replace(_LARGE, n_cls=150), (480, 480), "ade20k"),
    "dpt_hybrid": Variant(_HYBRID),
    "dpt_large": Variant(_LARGE),
}


def build_dpt(name: str) -> tuple[DPT, Variant]:
    """A published model with random weights.

    Raises:
        ExpediteError: There is no such model.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model, variant = build_dpt("dpt_hybrid_kitti")
        >>> variant.image_size
        (352, 1216)
    """
    if name not in VARIANTS:
        raise ExpediteError(
            f"the DPT '{name}' was asked; the published ones are {', '.join(VARIANTS)}"
        )
    return DPT(VARIANTS[name].config), VARIANTS[name]


def load_dpt(path: Path) -> tuple[DPT, Variant]:
    """Load a published file, or one that `save_dpt` wrote, in eval mode.

    Args:
        path: Has `variant.yml` beside it, or a name that begins like the published one's.

    Raises:
        ExpediteError: It is missing, damaged, of no known architecture, or does not fit it.
    """
    state = read_state_dict(path)
    variant = _variant_of(path)
    with describing(path.with_name("variant.yml"), "DPT"):
        refuse_too_many(variant.config.layers, state, path.with_name("variant.yml"))
        model = filled(lambda: DPT(variant.config), state, path)
    return model.eval(), variant


def save_dpt(model: DPT, variant: Variant, folder: Path) -> Path:
    """Write `checkpoint.pth` and the `variant.yml` that says its architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pth"
    write_checkpoint({"model": model.state_dict()}, path)
    # As lists, which YAML has.
    content = {
        "net_kwargs": {name: _plain(value) for name, value in asdict(variant.config).items()},
        "inference_kwargs": {"image_size": list(variant.image_size)},
        "dataset_kwargs": {"dataset": variant.dataset},
    }
    (folder / "variant.yml").write_text(yaml.safe_dump(content))
    return path


def _variant_of(path: Path) -> Variant:
    beside = path.with_name("variant.yml")
    if beside.is_file():
        return _read_variant(beside)
    # Longer names first: "dpt_hybrid" begins them all.
    for name in sorted(VARIANTS, key=len, reverse=True):
        if path.name.startswith(name):
            return VARIANTS[name]
    raise ExpediteError(
        f"the architecture of {path} is not known: there is no variant.yml beside it and its name "
        f"does not begin with {', '.join(VARIANTS)}"
    )


def _read_variant(path: Path) -> Variant:
    content = read_yaml(path)
    with describing(path, "DPT"):
        net = {name: _frozen(value) for name, value in content["net_kwargs"].items()}
        size = _frozen(content["inference_kwargs"]["image_size"])
        check_integers("image_size", size, 2)
        dataset = content.get("dataset_kwargs", {}).get("dataset", "")
        return Variant(DPTConfig(**net), size, str(dataset))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
