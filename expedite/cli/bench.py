"""`expedite bench`: the speed and memory of one plan, and where its time goes."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from expedite.cli.options import (
    Alpha,
    AsJson,
    Beta,
    Checkpoint,
    Classes,
    Clusters,
    Device,
    Dtype,
    ImageSize,
    Keep,
    Method,
    Model,
    ReconstructAt,
    Seconds,
    Settings,
    find_device,
    image_size_of,
    images_for,
    optional_plan,
    show,
)
from expedite.errors import ExpediteError
from expedite.evaluate.recommend import LEAST_SPEEDUP
from expedite.loading import load_model
from expedite.measure.memory import peak_memory
from expedite.measure.mode import COMPILE_MODES, PLAIN, Mode
from expedite.measure.parts import PARTS, time_parts
from expedite.measure.speed import setting, time_pairs, twin
from expedite.patching import patch


def bench_command(
    model: Model,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    alpha: Alpha = None,
    clusters: Clusters = None,
    keep: Keep = None,
    beta: Beta = None,
    method: Method = "expedite",
    reconstruct_at: ReconstructAt = "backbone",
    settings: Settings = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images at once, beside one at a time.")
    ] = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    compile_mode: Annotated[
        str, typer.Option("--compile", help=f"Of torch.compile: {', '.join(COMPILE_MODES)}.")
    ] = PLAIN,
    seconds: Seconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """Time one plan against the unpatched model, in turn, with its peak memory and its parts."""
    loaded = load_model(model, image_size_of(image_size), classes, checkpoint)
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    if plan is None:
        raise ExpediteError("no alpha was given; a bench times a plan against the unpatched model")
    mode = Mode(dtype, compile_mode)
    base = loaded.model.to(find_device(device), mode.torch_dtype)
    fast = patch(twin(base), plan)
    bench = Bench(base, fast, mode, seconds)
    one = images_for(loaded).to(find_device(device), mode.torch_dtype)
    many = one.expand(batch_size, -1, -1, -1)
    under = setting(fast, one, compile_mode)
    content = {
        "model": model,
        "plan": asdict(plan),
        "setting": asdict(under),
        "latency": bench.measure(one),
        "throughput": {"batch_size": batch_size, **bench.measure(many)},
    }
    show(content, _text(content, str(under)), as_json)


class Bench:
    """A model and its patched twin, compiled or not."""

    def __init__(self, base: nn.Module, fast: nn.Module, mode: Mode, seconds: float) -> None:
        self.fast, self.mode, self.seconds = fast, mode, seconds
        self.calls = mode.compiled(base), mode.compiled(fast)

    def measure(self, images: Tensor) -> dict[str, Any]:
        """Speed, memory and, where code is not compiled, the time of each part."""
        first, second = (partial(call, images) for call in self.calls)
        with torch.inference_mode():
            timing = time_pairs(first, second, images.device, seconds=self.seconds)
            before, after = (peak_memory(call, images.device) for call in (first, second))
            parts = self._parts(images)
        return {
            "base_fps": len(images) / timing.first.median,
            "patched_fps": len(images) / timing.second.median,
            "speedup": timing.speedup.median,
            "speedup_quartiles": [timing.speedup.lower, timing.speedup.upper],
            "pairs": timing.speedup.runs,
            "base_memory_mb": before / 1e6,
            "patched_memory_mb": after / 1e6,
            "parts": parts,
        }

    def _parts(self, images: Tensor) -> dict[str, Any] | None:
        if self.mode.compile != PLAIN:
            return None
        parts = time_parts(self.fast, images, seconds=self.seconds)
        return {**asdict(parts), "share": parts.share}


def _text(content: dict[str, Any], under: str) -> str:
    measured = (content["latency"], content["throughput"])
    return "\n".join([under, *map(_speed, measured), *_parts_text(*measured)])


def _speed(figures: dict[str, Any]) -> str:
    batch = figures.get("batch_size", 1)
    lower, upper = figures["speedup_quartiles"]
    line = (
        f"batch {batch}: {figures['base_fps']:.2f} → {figures['patched_fps']:.2f} images/s, "
        f"speed-up {figures['speedup']:.2f} ({lower:.2f} to {upper:.2f} over "
        f"{figures['pairs']} pairs), peak memory {figures['base_memory_mb']:.1f} → "
        f"{figures['patched_memory_mb']:.1f} MB"
    )
    if figures["speedup"] >= LEAST_SPEEDUP:
        return line
    return (
        f"{line}\nAt batch {batch} this plan does not pay on this machine: it is "
        f"{figures['speedup']:.2f} times as fast as the unpatched model, and {LEAST_SPEEDUP} is "
        "the least that counts."
    )


def _parts_text(*measured: dict[str, Any]) -> list[str]:
    """A table of where the time of a patched call goes, a column for each batch."""
    if measured[0]["parts"] is None:
        return [
            "Where the time goes cannot be told of compiled code, which runs in one piece; "
            "--compile none shows it."
        ]
    columns = [figures["parts"] for figures in measured]
    batches = (f"batch {figures.get('batch_size', 1)}" for figures in measured)
    lines = [_row("a patched call's time", *batches)]
    for part in PARTS:
        if any(column["seconds"][part] for column in columns):
            lines.append(_row(part, *(_part_text(column, part) for column in columns)))
    return [*lines, _row("all parts, of a call", *(f"{column['share']:.1%}" for column in columns))]


def _part_text(column: dict[str, Any], part: str) -> str:
    seconds = column["seconds"][part]
    return f"{1000 * seconds:.1f} ms {seconds / column['whole']:6.1%}"


def _row(title: str, *cells: str) -> str:
    return f"{title:36}" + "".join(f"{cell:>20}" for cell in cells)
