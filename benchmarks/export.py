"""Time exported models: what ONNX Runtime keeps of the speed-up that the GFLOPs allow.

    python -m benchmarks.export
    python -m benchmarks.export --model segmenter --pairs 3

From the repository's root. Unpatched and patched run in turn in one process, first in ONNX Runtime,
then in PyTorch, on as many threads.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import onnxruntime
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import expedite
from benchmarks.cases import CASES, TITLES, Measured, find_case
from expedite.measure.speed import setting, time_pairs

CPU = torch.device("cpu")


def exported(model: nn.Module, image: Tensor, path: Path) -> Callable[[Tensor], object]:
    """An ONNX file of a model as a function of images."""
    expedite.export(model, image, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


def main(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(CASES)}.")] = "vit",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    pairs: Annotated[int, typer.Option(min=2, help="At least so many.")] = 5,
    seconds: Annotated[float, typer.Option(help="Go on for so long.")] = 20.0,
) -> None:
    """Export a model and its patched twin, and time both."""
    case = find_case(model)
    pair = case.make()
    images = pair.image.expand(batch_size, -1, -1, -1).contiguous()
    table = Table("model", "runs in", *TITLES[:-1])
    with TemporaryDirectory() as folder:
        first, second = (
            partial(exported(one, pair.image, Path(folder, "model.onnx")), images)
            for one in (pair.base, pair.fast)
        )
        timing = time_pairs(first, second, CPU, seconds=seconds, least_pairs=pairs)
    rows = {
        f"ONNX Runtime {onnxruntime.__version__}": Measured(batch_size, timing),
        "PyTorch": pair.measure(batch_size, "none", pairs, seconds),
    }
    for name, measured in rows.items():
        table.add_row(case.name, name, *[*measured.cells(pair.allowed)][:-1])
    Console(width=160).print(table, str(setting(pair.fast, images)), sep="\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
