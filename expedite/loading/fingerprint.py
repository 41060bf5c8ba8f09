"""What tells a model from another of the same name: its weights, and the files that describe it."""

import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expedite.loading import factory
from expedite.loading.model import LoadedModel
from expedite.plan import Plan

# A model's own words, beside its weights: variant.yml, config.json, preprocessor_config.json, ...
_DESCRIPTIONS = ("*.yml", "*.yaml", "*.json", "*.py")
_LIBRARIES = ("site-packages", "dist-packages")
_SHOWN = 16  # characters of a digest


def fingerprint(loaded: LoadedModel, spec: str) -> dict[str, str]:
    """Digests of a model's trained weights, and of the files and the code that describe it.

    Args:
        loaded: The model, not patched.
        spec: As `load_model` was asked for it.
    """
    found = {"description": _digest_of_files(_descriptions(spec))}
    if loaded.trained:  # random ones are others with another release of PyTorch
        found["weights"] = digest_of_weights(loaded.model)
    return found


def digests_of_calibrations(plans: Iterable[Plan]) -> dict[str, dict[str, str]]:
    """Digests of the files that plans name, where they name any."""
    names = sorted({str(plan.calibration) for plan in plans if plan.calibration})
    digests = {name: _digest_of_files([Path(name)]) for name in names}
    return {"calibrations": digests} if digests else {}


def digest_of_weights(model: nn.Module) -> str:
    """A digest of the names and values of a model's state."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        for part in _parts(value):
            found.update(part)
    return found.hexdigest()[:_SHOWN]


def _parts(value: Any) -> Iterator[bytes]:
    """What a value of a state is made of: quantised tensors are of several."""
    if not isinstance(value, Tensor):
        yield repr(value).encode()
        return
    yield f"{value.dtype} {tuple(value.shape)}".encode()
    if hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        yield repr(context).encode()
        for name in names:
            yield from _parts(getattr(value, name))
    elif not value.is_meta:
        dense = value.dequantize() if value.is_quantized else value.to_dense()
        yield dense.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _descriptions(spec: str) -> Iterable[Path]:
    if (file := factory.parse(spec)) is not None:
        return _code(file[0])
    path = Path(spec.partition(":")[2])
    folder = path if path.is_dir() else path.parent
    if not path.is_dir():  # a checkpoint has its variant.yml beside it
        return [folder / "variant.yml"] if path.is_file() else []
    return [found for pattern in _DESCRIPTIONS for found in sorted(folder.glob(pattern))]


def _code(path: Path) -> Iterator[Path]:
    """A file of one's own, and what it imported of the files in its folder."""
    yield path
    folder = path.resolve().parent
    for module in [*sys.modules.values()]:
        # Not by getattr, for which some modules import others.
        file = Path(getattr(module, "__dict__", {}).get("__file__") or "/")
        if file.is_relative_to(folder) and not _is_of_others(file):
            yield file


def _is_of_others(file: Path) -> bool:
    """Whether it is of Python, of a library, or of this package, whose version is noted."""
    places = (Path(__file__).parents[1], Path(sysconfig.get_path("stdlib")))
    is_library = any(name in file.parts for name in _LIBRARIES)
    return is_library or any(file.is_relative_to(place) for place in places)


def _digest_of_files(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted({path.resolve() for path in paths}):
        if path.is_file():
            found.update(f"{path.name}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:_SHOWN]
