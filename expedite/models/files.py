"""Reading weight files safely: tensors only, and one clear sentence when a file is damaged.

Which keys an architecture expects is that architecture's own concern.
"""

import contextlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from expedite.errors import ExpediteError, MisfitError, first_line
from expedite.models.arrays import read_arrays

Model = TypeVar("Model", bound=nn.Module)

_SHOWN_KEYS = 4
# Keys under which training code stores a state dict, one inside another at times.
_WRAPPING_KEYS = ("state_dict", "model", "module")
# What DataParallel, torch.compile and Lightning put before the names of a model's tensors.
_WRAPPERS = ("module.", "_orig_mod.")
_WRAPPING_PREFIXES = (*_WRAPPERS, "model.")
# Buffers that models compute: files have them or not, and their values say nothing.
_COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict, however it is wrapped.

    From safetensors, from a pickle of tensors, or from a .pkl of arrays as detectron2 writes it.

    Raises:
        ExpediteError: The file is missing, cut short, holds more than tensors and plain containers,
            or is no state dict.
    """
    if not path.is_file():
        raise ExpediteError(f"weights were asked from {path}, which is not a file")
    content = _read_tensors(path)
    state = content
    for _ in _WRAPPING_KEYS:
        state = _inside(state)
    if not _is_state_dict(state):
        raise ExpediteError(
            f"{path} holds {_summary(content)}, not a state dict; a dict of tensors, or one under "
            f"a key {' or '.join(map(repr, _WRAPPING_KEYS))}, would load"
        )
    return _unwrapped(state, _WRAPPERS)


def without_prefixes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Take off what wrappers put before every name, until one is expected."""
    while state and not expected.keys() & state.keys():
        shorter = _unwrapped(state, _WRAPPING_PREFIXES, most=1)
        if shorter.keys() == state.keys():
            break
        state = shorter
    return state


def filled(make: Callable[[], Model], state: Mapping[str, Tensor], origin: Path) -> Model:
    """The model that `make` makes, with weights; one that does not fit them takes no memory.

    Raises:
        MisfitError: See `load_weights`.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers without channels
        check_weights(make(), state, origin)
    model = make()
    load_weights(model, state, origin)
    return model


def load_weights(model: nn.Module, state: Mapping[str, Tensor], origin: Path) -> None:
    """Load `state` into `model`, every key and shape matching; `origin` names it in errors.

    Prefixes that wrappers of models put before every name are taken off. Buffers that a model
    computes may be missing, or be there without being asked for.

    Raises:
        MisfitError: Something does not match.
    """
    state = check_weights(model, state, origin)
    computed = {name: x for name, x in model.state_dict().items() if name.endswith(_COMPUTED)}
    model.load_state_dict({**computed, **state})


def check_weights(
    model: nn.Module, state: Mapping[str, Tensor], origin: Path
) -> Mapping[str, Tensor]:
    """What `load_weights` would load: `state` by the model's own names, if all of it fits.

    Raises:
        MisfitError: Something does not.
    """
    expected = model.state_dict()
    state = {
        name: tensor
        for name, tensor in without_prefixes(state, expected).items()
        if name in expected or not name.endswith(_COMPUTED)
    }
    problems = {
        "missing": [n for n in expected if n not in state and not n.endswith(_COMPUTED)],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
        "not of dense real numbers": [n for n, tensor in state.items() if not _is_dense(tensor)],
        "not of floating point": [
            f"{name} {state[name].dtype}"
            for name, tensor in expected.items()
            if name in state and _is_dense(state[name]) and _loses_kind(state[name], tensor)
        ],
    }
    found = [f"{len(names)} {kind} ({_few(names)})" for kind, names in problems.items() if names]
    if found:
        raise MisfitError(f"the weights in {origin} do not fit the model: {'; '.join(found)}")
    return state


def three(name: str, tensor: Tensor, one: str) -> dict[str, Tensor]:
    """A layer that makes queries, keys and values cut into one for each of the three.

    Example:
        >>> list(three("attn.qkv.weight", torch.zeros(6, 2), ".qkv."))
        ['attn.q_proj.weight', 'attn.k_proj.weight', 'attn.v_proj.weight']
    """
    if not tensor.dim():
        return {name: tensor}  # of another shape than is due, as loading will say
    parts = zip("qkv", tensor.tensor_split(3), strict=True)
    return {name.replace(one, f".{letter}_proj."): part for letter, part in parts}


def count_modules(names: Iterable[str], prefix: str) -> int:
    """How many modules there are in the list that names of weights begin with.

    Example:
        >>> count_modules(["blocks.0.weight", "blocks.0.bias", "blocks.1.weight"], "blocks.")
        2
    """
    rest = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return len({name.partition(".")[0] for name in rest})


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint that takes its place only when it is whole."""
    written = io.BytesIO()  # PyTorch's own writer ends the process where a disk is full
    torch.save(content, written)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(written.getbuffer())
    partial.replace(path)


@contextlib.contextmanager
def quiet_refusals() -> Iterator[None]:
    """Silence what PyTorch warns of before it refuses a file; the error says enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _read_tensors(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl" and not zipfile.is_zipfile(path):  # which torch.save writes
            return read_arrays(path)
        with quiet_refusals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExpediteError(
            f"{path} was not loaded: it is a pickle of more than tensors and plain containers, or "
            "no checkpoint at all; save its state_dict() alone"
        ) from error
    except Exception as error:  # damaged bytes fail the unpickler in a dozen ways; none runs them
        raise ExpediteError(
            f"{path} is not a whole checkpoint ({first_line(error)}); copy it again"
        ) from error


def _inside(content: Any) -> Any:
    """What a wrapping key holds; a state dict, and what has no such key, as it is."""
    if not isinstance(content, Mapping) or _is_state_dict(content):
        return content
    wrapped = (content.get(key) for key in _WRAPPING_KEYS)
    return next((inner for inner in wrapped if isinstance(inner, Mapping)), content)


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def _is_dense(tensor: Tensor) -> bool:
    unlike = tensor.is_quantized or tensor.is_complex() or tensor.is_meta
    return tensor.layout is torch.strided and not unlike


def _loses_kind(stored: Tensor, due: Tensor) -> bool:
    """Truth values and integers make no weights, though PyTorch would convert them."""
    return due.is_floating_point() and not stored.is_floating_point()


def _unwrapped(
    state: Mapping[str, Tensor], prefixes: Iterable[str], most: int = 3
) -> dict[str, Tensor]:
    """Without the prefixes that all names begin with, of which there are so many at most."""
    for _ in range(most):
        prefix = next((p for p in prefixes if state and all(n.startswith(p) for n in state)), "")
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _summary(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with keys {_few(map(str, content))}"
    return f"a {type(content).__name__}"


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = ", …" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(names[:_SHOWN_KEYS]) + more
