"""`FILE.py:FACTORY`, a function of one's own that returns a model with weights."""

import importlib.util
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from expedite.errors import ExpediteError
from expedite.loading.center_crop import CenterCrop
from expedite.loading.model import LoadedModel, TaskName, Wanted

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def parse(spec: str) -> tuple[Path, str] | None:
    """The file and the function that `spec` names; None where it is of another form."""
    path, _, name = spec.rpartition(":")
    return (Path(path), name) if path.endswith(".py") else None


def make(wanted: Wanted, path: Path, name: str) -> nn.Module:
    """Call the function."""
    wanted.refuse_others()
    function = getattr(_import(path), name, None)
    if not callable(function):
        raise ExpediteError(f"'{wanted.spec}' was asked; {path} defines no function '{name}'")
    try:
        signature(function).bind()
    except (TypeError, ValueError) as error:
        raise ExpediteError(
            f"'{wanted.spec}' was asked; {name} cannot be called without arguments: {error}"
        ) from error
    model = function()
    if not isinstance(model, nn.Module):
        raise ExpediteError(
            f"'{wanted.spec}' was asked; {name}() returned a {type(model).__name__}, and a "
            "torch.nn.Module is due"
        )
    model.eval()  # which returns nothing in some published models
    return model


def build(wanted: Wanted, path: Path, name: str) -> LoadedModel:
    model = make(wanted, path, name)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = wanted.image_size
    if size is None:
        if "input_size" not in config:
            raise ExpediteError(f"'{wanted.spec}' does not say its image size; give --image-size")
        _, *sides = _three(wanted, config, "input_size", int)
        size = (sides[0], sides[1])
    config = {"mean": _MEAN, "std": _DEVIATION, **config}
    mean, deviation = (_three(wanted, config, name, int | float) for name in ("mean", "std"))
    task: TaskName | None = config.get("task")
    crop = CenterCrop.of_config(config, size)
    return LoadedModel(wanted.spec, model, size, mean, deviation, True, task=task, crop=crop)


def _three(wanted: Wanted, config: dict[str, Any], name: str, kind: Any) -> tuple[Any, Any, Any]:
    values = config[name]
    found = tuple(values) if isinstance(values, (tuple, list)) else ()
    if len(found) != 3 or not all(isinstance(value, kind) for value in found):
        raise ExpediteError(
            f"'{wanted.spec}' says {name}={values!r} in its pretrained_cfg; three numbers are due"
        )
    return found


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"expedite_model_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExpediteError(f"a model was asked from {path}, which is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module
