"""The formats of exported files: what each needs, how it is written, and how it is run.

What they are called is read without PyTorch, which is imported where files are written and run.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, cast

from expedite.errors import ExpediteError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FormatName = Literal["onnx", "torch-export", "openvino", "aoti"]
# A file as a function of images (B, 3, H, W); its outputs in order.
Run = Callable[["Tensor"], Sequence["Tensor"]]

_SEVERE = 3  # of ONNX Runtime's levels: errors


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        suffix: Of its files.
        extra: Of this package, that brings the libraries.
        libraries: What it needs beside PyTorch.
        write: Writes a traced program with names for its outputs; returns the opset, if any.
        open: Makes a file run, in the precision that it is written in.
        usual: In what precision the runtime has a file run that is not told; None for its own.
    """

    suffix: str
    extra: str
    libraries: tuple[str, ...]
    write: Callable[["torch.export.ExportedProgram", Sequence[str], Path], int | None]
    open: Callable[[Path], Run]
    usual: Callable[[Path], str] | None = None


def check_format(name: str) -> FormatName:
    """Refuse a name that is no format's.

    Example:
        >>> check_format("onnx")
        'onnx'
    """
    if name not in FORMATS:
        raise ExpediteError(f"the format '{name}' was asked; {' and '.join(FORMATS)} are known")
    return cast(FormatName, name)


def find_format(name: str) -> Format:
    """The format of that name, whose libraries are there.

    Example:
        >>> find_format("onnx").libraries
        ('onnx', 'onnxscript', 'onnxruntime')
    """
    name = check_format(name)
    for library in FORMATS[name].libraries:
        if importlib.util.find_spec(library) is None:
            raise ExpediteError(
                f"the format '{name}' needs {library}, which is missing; pip install "
                f"'expedite-vit[{FORMATS[name].extra}]' brings it"
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


def _write_onnx(
    program: "torch.export.ExportedProgram", outputs: Sequence[str], path: Path
) -> int | None:
    import torch

    found = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"], output_names=outputs
    )
    assert found is not None  # which it is with dynamo=False alone
    found.save(path)
    return found.model.opset_imports[""]


def _open_onnx(path: Path) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERE
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: "Tensor") -> "Sequence[Tensor]":
        return [torch.from_numpy(x) for x in session.run(None, {"images": images.cpu().numpy()})]

    return run


def _write_program(
    program: "torch.export.ExportedProgram", outputs: Sequence[str], path: Path
) -> int | None:
    import torch

    written = BytesIO()  # PyTorch's own writer ends the process where a disk is full
    torch.export.save(program, written)
    path.write_bytes(written.getbuffer())
    return None


def _open_program(path: Path) -> Run:
    import torch

    from expedite.exporting.outputs import named

    model = torch.export.load(path).module()
    return lambda images: [tensor for _, tensor in named(model(images))]


def _write_openvino(
    program: "torch.export.ExportedProgram", outputs: Sequence[str], path: Path
) -> int | None:
    import openvino

    # By way of ONNX: OpenVINO's own reader of programs lacks some of their operations.
    with TemporaryDirectory() as folder:
        through = Path(folder, "model.onnx")
        opset = _write_onnx(program, outputs, through)
        openvino.save_model(openvino.convert_model(through), path, compress_to_fp16=False)
    return opset


def _open_openvino(path: Path) -> Run:
    import openvino
    import torch

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", exact)

    def run(images: "Tensor") -> "Sequence[Tensor]":
        found = compiled(images.cpu().numpy())
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run


def _usual_of_openvino(path: Path) -> str:
    """Left to itself OpenVINO takes bfloat16 where a CPU has it."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU")
    name: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return name


def _write_aoti(
    program: "torch.export.ExportedProgram", outputs: Sequence[str], path: Path
) -> int | None:
    import torch

    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return None


def _open_aoti(path: Path) -> Run:
    import torch

    from expedite.exporting.outputs import named

    model = torch._inductor.aoti_load_package(str(path))
    return lambda images: [tensor for _, tensor in named(model(images))]


_OF_ONNX = ("onnx", "onnxscript")
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", "export", (*_OF_ONNX, "onnxruntime"), _write_onnx, _open_onnx),
    "torch-export": Format(".pt2", "export", (), _write_program, _open_program),
    "openvino": Format(
        ".xml",
        "openvino",
        (*_OF_ONNX, "openvino"),
        _write_openvino,
        _open_openvino,
        _usual_of_openvino,
    ),
    "aoti": Format(".pt2", "export", (), _write_aoti, _open_aoti),
}
