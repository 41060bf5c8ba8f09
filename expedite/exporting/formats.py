"""The formats of exported files: what each needs, how it is written, and how it is run."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError

FormatName = Literal["onnx", "torch-export"]
# A file as a function of images (B, 3, H, W); its outputs in order.
Run = Callable[[Tensor], Sequence[Tensor]]

_SEVERE = 3  # of ONNX Runtime's levels: errors


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        suffix: Of its files.
        libraries: What it needs beside PyTorch.
        write: Writes a traced program with names for its outputs; returns the opset, if any.
        open: Makes a file run.
    """

    suffix: str
    libraries: tuple[str, ...]
    write: Callable[[torch.export.ExportedProgram, Sequence[str], Path], int | None]
    open: Callable[[Path], Run]


def find_format(name: str) -> Format:
    """The format of that name, whose libraries are there.

    Example:
        >>> find_format("onnx").libraries
        ('onnx', 'onnxscript', 'onnxruntime')
    """
    if name not in FORMATS:
        raise ExpediteError(f"the format '{name}' was asked; {' and '.join(FORMATS)} are known")
    for library in FORMATS[name].libraries:
        if importlib.util.find_spec(library) is None:
            raise ExpediteError(
                f"the format '{name}' needs {library}, which is missing; pip install "
                "'expedite-vit[export]' brings it"
            )
    return FORMATS[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off the console what exporters warn of, log and print."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def named(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an output with its name: keys and places, joined by dots.

    Raises:
        ExpediteError: Something else is in it.

    Example:
        >>> [name for name, _ in named({"maps": (torch.zeros(1), torch.zeros(1))})]
        ['maps.0', 'maps.1']
    """
    if isinstance(output, Tensor):
        yield name or "output", output
    elif isinstance(output, (Mapping, list, tuple)):
        for key, value in _items(output):
            yield from named(value, f"{name}.{key}" if name else str(key))
    elif output is not None:
        where = f" at '{name}'" if name else ""
        raise ExpediteError(
            f"a {type(output).__name__} was found in the model's output{where}; tensors in tuples, "
            "lists and dicts can be exported"
        )


class Plain(nn.Module):
    """A model whose output is made of plain dicts and tuples, which any program can read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return _plain(self.model(images))


def _plain(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {key: _plain(value) for key, value in output.items() if value is not None}
    if isinstance(output, (list, tuple)):
        return tuple(_plain(value) for value in output)
    return output


def _items(output: Any) -> Iterator[tuple[Any, Any]]:
    yield from output.items() if isinstance(output, Mapping) else enumerate(output)


def _write_onnx(
    program: torch.export.ExportedProgram, outputs: Sequence[str], path: Path
) -> int | None:
    found = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=outputs
    )
    assert found is not None  # which it is with dynamo=False alone
    found.save(path)
    return found.model.opset_imports[""]


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERE
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(x) for x in session.run(None, {"images": images.cpu().numpy()})]

    return run


def _write_program(
    program: torch.export.ExportedProgram, outputs: Sequence[str], path: Path
) -> int | None:
    written = BytesIO()  # PyTorch's own writer ends the process where a disk is full
    torch.export.save(program, written)
    path.write_bytes(written.getbuffer())
    return None


def _open_program(path: Path) -> Run:
    model = torch.export.load(path).module()
    return lambda images: [tensor for _, tensor in named(model(images))]


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch-export": Format(".pt2", (), _write_program, _open_program),
}
