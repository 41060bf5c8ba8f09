"""A model as one file for other runtimes, compared with the model itself before it is kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError, first_line
from expedite.exporting.formats import FormatName, Run, find_format, quiet
from expedite.exporting.outputs import Plain, named

# Batches that a file is compared at, neither of them the one that is traced; of a traced batch of 1
# PyTorch makes a constant.
_BATCHES = (1, 3)
_TRACED_BATCH = 2
# Where two clusters are equally near to a token, rounding decides, differently in every runtime; so
# most images must agree, not all, in one of a few draws.
_DRAWS = 3
# Of an image's values, how many may differ by more than the tolerance.
_FEW = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far a file is from the model on random images.

    Args:
        batch: How many images at once.
        agreeing: Of how many of them 99.9 % of the values are within the tolerance.
        largest: The largest difference between two values, in the output where it is furthest.
        scale: The largest value there.
        share: Of the values there, how many differ by more than the tolerance times the largest.
    """

    batch: int
    agreeing: int
    largest: float
    scale: float
    share: float

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return self.largest / self.scale if self.scale else self.largest

    @property
    def is_small(self) -> bool:
        """Whether the file may be kept: most images agree."""
        return 2 * self.agreeing > self.batch

    def __str__(self) -> str:
        return (
            f"batch {self.batch}: {self.agreeing} of {self.batch} images agree, largest difference "
            f"{self.largest:.1e} of values up to {self.scale:.3g}, {self.share:.2%} of them beyond "
            "the tolerance"
        )


@dataclass(frozen=True)
class Export:
    """A file that was written, and what it was found to be.

    Args:
        path: The file.
        data: A second file, with the weights, where the format has one: OpenVINO's, and ONNX where
            they are more than protobuf takes (2 GB).
        opset: Of ONNX; None in other formats.
        outputs: Their names; places in tuples are numbers.
        tolerance: Of a difference, over the largest value of an output.
        differences: Of every draw of random images, in the precision of the model.
        usual: The precision that the runtime takes on this machine where it is not told, as
            OpenVINO does bfloat16; None where it takes the model's.
    """

    path: Path
    data: Path | None
    opset: int | None
    outputs: tuple[str, ...]
    tolerance: float
    differences: tuple[Difference, ...]
    usual: str | None


def export(
    model: nn.Module,
    images: Tensor,
    out: str | Path,
    format: FormatName = "onnx",
    *,
    on_step: Callable[[str], None] = lambda step: None,
) -> Export:
    """Write a model, patched or not, as one file for any batch of images of one size.

    The file is run beside the model on random images, at batch 1 and 3, and kept if of most images
    99.9 % of the values of each output differ by less than 1e-3 times the largest (in half
    precision by the root of its epsilon: 0.03 in float16, 0.09 in bfloat16, which ONNX Runtime does
    not run on a CPU).

    Args:
        model: In eval mode. Its output may be a tensor, or tuples, lists and dicts of tensors.
        images: (B, 3, H, W) as the model takes them; their size, dtype and device count, not what
            is in them.
        out: The file; what is there is replaced.
        format: "onnx" for ONNX Runtime and others, "openvino", "torch-export" for
            `torch.export.load`, or "aoti" for AOTInductor, compiled for this machine.
        on_step: Called with what is done next, in a few words.

    Returns:
        What was written, and how far it is from the model.

    Raises:
        ExpediteError: A library of the extra `export` is missing, the model cannot be traced or has
            other outputs, the file is not the model, or `out` cannot be written; nothing is then.

    Example:
        >>> import timm, expedite
        >>> from tempfile import gettempdir
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
        >>> found = expedite.export(
        ...     model, torch.zeros(1, 3, 224, 224), f"{gettempdir()}/model.pt2", "torch-export"
        ... )
        >>> found.outputs, found.differences[0].share
        (('output',), 0.0)
    """
    form, out = find_format(format), Path(out)
    _check(model, images)
    if out.suffix != form.suffix:
        raise ExpediteError(f"{out} was asked; files of the format '{format}' end in {form.suffix}")
    with _folder_beside(out) as folder, torch.no_grad():
        partial = folder / out.name
        outputs = _outputs(model, images)
        with _telling(f"the model cannot be exported as {format}"):
            on_step("tracing the model")
            traced = _trace(model, images)
            on_step(f"writing {out}")
            opset = form.write(traced, outputs, partial)
        on_step(f"running {out} beside the model")
        with _telling(f"the {format} file of a model in {images.dtype} cannot be opened"):
            run = form.open(partial)
        differences = tuple(_compare(model, run, images))
        usual = form.usual(partial) if form.usual else None
        files = [path.replace(out.parent / path.name) for path in folder.iterdir()]
    data = next((path for path in files if path != out), None)
    return Export(out, data, opset, outputs, _tolerance(images), differences, usual)


def _check(model: nn.Module, images: Tensor) -> None:
    if model.training:
        raise ExpediteError(
            "a model in training mode was to be exported; model.eval() makes of it what is to run"
        )
    if images.dim() != 4 or not images.is_floating_point():
        raise ExpediteError(
            f"images of shape {tuple(images.shape)} and {images.dtype} were given; the size of a "
            "file's images comes from floating-point ones (B, 3, H, W)"
        )


def _outputs(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    names = tuple(name for name, _ in named(model(images)))
    if not names:
        raise ExpediteError("a model without any tensor in its output was to be exported")
    return names


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder for what is not yet to be seen under its name."""
    if out.is_dir():
        raise ExpediteError(f"{out} was asked as the file to write, and it is a folder")
    try:
        with TemporaryDirectory(dir=out.parent, prefix=".export-") as name:
            yield Path(name)
    except OSError as error:  # there is no such folder, or the disk is full
        raise ExpediteError(f"{out} cannot be written: {first_line(error)}") from error


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn what an exporter or a runtime fails with, in dozens of ways, into one sentence."""
    try:
        with quiet():
            yield
    except (ExpediteError, OSError):
        raise
    except Exception as error:
        raise ExpediteError(f"{what}: {first_line(_root(error))}") from error


def _root(error: Exception) -> Exception:
    """What an error comes from: exporters wrap it in advice."""
    cause = error.__cause__
    return _root(cause) if isinstance(cause, Exception) else error


def _trace(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    traced = _random(images, _TRACED_BATCH, seed=0)
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(Plain(model), (traced,), dynamic_shapes=shapes, strict=False)


def _compare(model: nn.Module, run: Run, images: Tensor) -> Iterator[Difference]:
    for batch in _BATCHES:
        for draw in range(1, 1 + _DRAWS):
            difference = _measure(model, run, _random(images, batch, seed=_DRAWS * batch + draw))
            yield difference
            if difference.is_small:
                break
        else:
            raise ExpediteError(
                f"the file that was written is not the model, so it was not kept: {difference}"
            )


def _measure(model: nn.Module, run: Run, images: Tensor) -> Difference:
    due = [tensor for _, tensor in named(model(images))]
    with _telling(f"the file that was written does not run at batch {len(images)}"):
        found = run(images)
    gaps = [_gap(*pair, images) for pair in zip(found, due, strict=True)]
    agreeing = torch.stack([gap.beyond <= _FEW for gap in gaps]).all(0).sum()
    worst = max(gaps, key=lambda gap: float(gap.beyond.mean()))
    share = float(worst.beyond.mean())
    return Difference(len(images), int(agreeing), worst.largest, worst.scale, share)


class _Gap(NamedTuple):
    """How far one output is: `beyond` is the share (B,) of each image's values past tolerance."""

    beyond: Tensor
    largest: float
    scale: float


def _gap(found: Tensor, due: Tensor, images: Tensor) -> _Gap:
    batch = len(images)
    if found.shape != due.shape or not due.numel():
        return _Gap(torch.full((batch,), float(found.shape != due.shape)), inf, 0.0)
    a, b = found.cpu().double(), due.cpu().double()
    equal = (a == b) | (a.isnan() & b.isnan())  # infinities have no difference
    distance = (a - b).abs().masked_fill(equal, 0).nan_to_num(nan=inf)
    scale = b.nan_to_num(0, 0, 0).abs().max()
    beyond = (distance > _tolerance(images) * scale).double()
    of_images = due.dim() > 0 and due.shape[0] == batch
    share = beyond.reshape(batch, -1).mean(1) if of_images else beyond.mean().expand(batch)
    return _Gap(share, float(distance.max()), float(scale))


def _tolerance(images: Tensor) -> float:
    """Of differences that rounding can make, in convolutions of a head most of all."""
    return max(1e-3, sqrt(torch.finfo(images.dtype).eps))


def _random(images: Tensor, batch: int, seed: int) -> Tensor:
    """Random images of the same size, dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *images.shape[1:], generator=generator).to(images)
