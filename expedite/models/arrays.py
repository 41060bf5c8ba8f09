"""Reading pickles of NumPy arrays, as detectron2 writes its .pkl files, without running them.

A pickle names the functions that are to make its objects. Here it gets those that make arrays and
plain containers, and is refused if it names any other.
"""

import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def read_arrays(path: Path) -> Any:
    """What a pickle of arrays holds, with a tensor in place of every array.

    Raises:
        pickle.UnpicklingError: It is a pickle of something else.
        EOFError: It is cut short.
    """
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() != pickle.STOP:
            raise EOFError("its end is missing")
        stream.seek(0)
        # Python 2 wrote bytes as text of this encoding.
        return _as_tensors(_Unpickler(stream, encoding="latin1").load())


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 has put an underscore there.
        known = _KNOWN.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return known


def _empty(kind: object, shape: object, code: object) -> np.ndarray[Any, Any]:
    """An array for the pickle to fill; it cannot ask for memory here."""
    return np.ndarray((0,), np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes that older pickles hold as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are text in latin1, not in {encoding}")
    return text.encode(encoding)


_KNOWN = {
    "numpy.core.multiarray._reconstruct": _empty,
    "numpy.ndarray": "",  # which the first is given, and nobody calls
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
}


def _as_tensors(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _as_tensors(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.array(content))
    return content
