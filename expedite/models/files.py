"""Reading weight files safely: tensors only, and one clear sentence when a file is damaged.

Which keys an architecture expects is that architecture's own concern.
"""

import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from expedite.errors import ExpediteError

_SHOWN_KEYS = 4


def read_state_dict(path: Path, key: str) -> dict[str, Tensor]:
    """Read a state dict, from safetensors or from a pickle of tensors (under `key` if it has one).

    Raises:
        ExpediteError: The file is missing, cut short, holds more than tensors and plain containers,
            or is no state dict.
    """
    if not path.is_file():
        raise ExpediteError(f"weights were asked from {path}, which is not a file")
    content = _read_tensors(path)
    state = content.get(key, content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ExpediteError(
            f"{path} holds {_summary(content)}, not a state dict; a dict of tensors, or one under "
            f"the key '{key}', would load"
        )
    return dict(state)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], origin: Path) -> None:
    """Load `state` into `model`, every key and shape matching; `origin` names it in errors."""
    expected = model.state_dict()
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    found = [f"{len(names)} {kind} ({_few(names)})" for kind, names in problems.items() if names]
    if found:
        raise ExpediteError(f"the weights in {origin} do not fit the model: {'; '.join(found)}")
    model.load_state_dict(state)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    if not path.is_file():
        raise ExpediteError(f"settings were asked from {path}, which is not a file")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExpediteError(f"{path} is not readable as YAML: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ExpediteError(f"{path} holds {type(content).__name__}, not a mapping of settings")
    return content


def _read_tensors(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # PyTorch warns of a pickle protocol before it refuses the file; the error says enough.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExpediteError(
            f"{path} was not loaded: it is a pickle of more than tensors and plain containers, or "
            "no checkpoint at all; save its state_dict() alone"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ExpediteError(
            f"{path} is not a whole checkpoint ({_first_line(error)}); copy it again"
        ) from error


def _summary(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with keys {_few(map(str, content))}"
    return f"a {type(content).__name__}"


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = ", …" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(names[:_SHOWN_KEYS]) + more


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
