"""Why not just quantise? Int8 weights and activations alone, clusters alone, and both.

    pip install 'expedite-vit[bench]'
    python -m benchmarks.quantised
    python -m benchmarks.quantised --compile default

From the repository's root. Linear layers are quantised in two ways: by torchao, and by PyTorch's
own dynamic quantisation. Both quantise activations as they come, so no calibration is needed. Each
row is timed in turn with the plain model. Fidelity is that of the demo's Segmenter on scenes that
it never saw, to the plain model's maps, and so is the share of pixels of the same class.
"""

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.cases import CASES, Case, find_case
from expedite.evaluate.demo import demo_model, unseen_scenes
from expedite.evaluate.predict import predict
from expedite.measure.metrics import Agreement
from expedite.measure.mode import COMPILE_MODES, PLAIN, Mode
from expedite.measure.speed import setting, time_pairs
from expedite.patching import patch

Change = Callable[[nn.Module], nn.Module]
Figures = Callable[[nn.Module], list[str]]
CPU = torch.device("cpu")
DEMO = Case("the demo's Segmenter, α=2, 16×24", "", (256, 384), 2, (16, 24))


def plain(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model


def by_torchao(model: nn.Module) -> nn.Module:
    """A copy with int8 weights, one scale a channel, and activations, one scale a token."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def by_pytorch(model: nn.Module) -> nn.Module:
    """A copy with int8 weights and activations, one scale for all of each."""
    quantize: Any = torch.ao.quantization.quantize_dynamic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated in favour of torchao
        quantised: nn.Module = quantize(model, {nn.Linear}, dtype=torch.qint8)
    return quantised


PRECISIONS: Mapping[str, Change] = {
    "float32": plain,
    "int8, torchao": by_torchao,
    "int8, PyTorch": by_pytorch,
}


def speed(
    base: nn.Module, model: nn.Module, image: Tensor, mode: str, pairs: int, seconds: float
) -> list[str]:
    """Calls a second, and the speed-up over the plain model."""
    first, second = (partial(Mode(compile=mode).compiled(one), image) for one in (base, model))
    with torch.inference_mode():
        timing = time_pairs(first, second, CPU, seconds=seconds, least_pairs=pairs)
    ratio = timing.speedup
    return [
        f"{1 / timing.second.median:.2f}",
        f"{ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})",
    ]


def fidelity(base: nn.Module, scenes: int) -> Figures:
    """How alike a model's maps and the plain demo model's are, in percent, on so many scenes."""
    loaded = demo_model()
    images = [sample.image for sample in unseen_scenes(scenes)]
    before = [predict(loaded, base, image) for image in images]

    def compare(model: nn.Module) -> list[str]:
        agreement = Agreement(before[0].classes)
        for truth, image in zip(before, images, strict=True):
            agreement.add(truth.indices, predict(loaded, model, image).indices)
        same = agreement.counts.diag().sum() / agreement.counts.sum()
        return [f"{100 * agreement.mean_iou():.1f}", f"{100 * same:.1f}"]

    return compare


def rows(table: Table, base: nn.Module, case: Case, *figures: Figures) -> None:
    """A line for every precision, unpatched and patched."""
    torch.compiler.reset()
    for precision, change in PRECISIONS.items():
        table.add_row("unpatched", precision, *_figures(change(base), figures))
        fast = patch(change(copy.deepcopy(base)), alpha=case.alpha, clusters=case.clusters)
        table.add_row("patched", precision, *_figures(fast, figures))


def _figures(model: nn.Module, figures: tuple[Figures, ...]) -> list[str]:
    return [cell for figure in figures for cell in figure(model)]


def main(
    model: Annotated[str, typer.Option(help=f"For speed alone: {', '.join(CASES)}.")] = "vit",
    mode: Annotated[
        str, typer.Option("--compile", help=f"One of {', '.join(COMPILE_MODES)}.")
    ] = PLAIN,
    scenes: Annotated[int, typer.Option(min=1, help="For fidelity.")] = 24,
    pairs: Annotated[int, typer.Option(min=2, help="At least so many.")] = 5,
    seconds: Annotated[float, typer.Option(help="Go on for so long, for each row.")] = 10.0,
) -> None:
    """Measure every precision of the demo's Segmenter and of a model of real size."""
    loaded = demo_model()
    timed = ("calls/s", "speed-up (quartiles)")
    image = torch.randn(1, 3, *DEMO.image_size)
    table = Table("", "precision", *timed, "fidelity %", "same pixels %", title=DEMO.name)
    quick = partial(speed, loaded.model, image=image, mode=mode, pairs=pairs, seconds=seconds)
    rows(table, loaded.model, DEMO, quick, fidelity(loaded.model, scenes))
    Console(width=120).print(table)
    case = find_case(model)
    pair = case.make()
    table = Table("", "precision", *timed, title=case.name)
    slow = partial(speed, pair.base, image=pair.image, mode=mode, pairs=pairs, seconds=seconds)
    rows(table, pair.base, case, slow)
    under = str(setting(pair.base, pair.image, mode))
    Console(width=120).print(table, under, sep="\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
