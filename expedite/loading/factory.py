"""`FILE.py:FACTORY`, a function of one's own that returns a model with weights."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from expedite.errors import ExpediteError
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
    model = function()
    if not isinstance(model, nn.Module):
        raise ExpediteError(
            f"'{wanted.spec}' was asked; {name}() returned a {type(model).__name__}, and a "
            "torch.nn.Module is due"
        )
    return model.eval()


def build(wanted: Wanted, path: Path, name: str) -> LoadedModel:
    model = make(wanted, path, name)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    size = wanted.image_size or tuple(config.get("input_size", ())[1:])
    if len(size) != 2:
        raise ExpediteError(f"'{wanted.spec}' does not say its image size; give --image-size")
    mean, deviation = config.get("mean", _MEAN), config.get("std", _DEVIATION)
    size = (size[0], size[1])
    task: TaskName | None = config.get("task")
    return LoadedModel(wanted.spec, model, size, mean, deviation, trained=True, task=task)


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"expedite_model_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ExpediteError(f"a model was asked from {path}, which is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes can be pickled
    spec.loader.exec_module(module)
    return module
