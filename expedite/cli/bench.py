"""`expedite bench`: the speed and memory of one plan."""

from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer

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
    find_dtype,
    image_size_of,
    images_for,
    optional_plan,
    show,
)
from expedite.errors import ExpediteError
from expedite.evaluate.memory import peak_memory
from expedite.evaluate.speed import setting, time_pairs, twin
from expedite.loading import load_model
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
    seconds: Seconds = 5.0,
    as_json: AsJson = False,
) -> None:
    """Time one plan against the unpatched model, in turn, with its peak memory."""
    loaded = load_model(model, image_size_of(image_size), classes, checkpoint)
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    if plan is None:
        raise ExpediteError("no alpha was given; a bench times a plan against the unpatched model")
    base = loaded.model.to(find_device(device), find_dtype(dtype))
    fast = patch(twin(base), plan)
    one = images_for(loaded).to(find_device(device), find_dtype(dtype))
    many = one.expand(batch_size, -1, -1, -1)
    content = {
        "model": model,
        "plan": asdict(plan),
        "setting": asdict(setting(fast, one)),
        "latency": _bench(base, fast, one, seconds),
        "throughput": {"batch_size": batch_size, **_bench(base, fast, many, seconds)},
    }
    show(content, _bench_text(content, str(setting(fast, one))), as_json)


def _bench(
    base: torch.nn.Module, fast: torch.nn.Module, images: torch.Tensor, seconds: float
) -> dict[str, Any]:
    with torch.inference_mode():
        timing = time_pairs(
            lambda: base(images), lambda: fast(images), images.device, seconds=seconds
        )
        before = peak_memory(lambda: base(images), images.device)
        after = peak_memory(lambda: fast(images), images.device)
    return {
        "base_fps": len(images) / timing.first.median,
        "patched_fps": len(images) / timing.second.median,
        "speedup": timing.speedup.median,
        "speedup_quartiles": [timing.speedup.lower, timing.speedup.upper],
        "pairs": timing.speedup.runs,
        "base_memory_mb": before / 1e6,
        "patched_memory_mb": after / 1e6,
    }


def _bench_text(content: dict[str, Any], under: str) -> str:
    lines = [under]
    for title in ("latency", "throughput"):
        figures = content[title]
        batch = figures.get("batch_size", 1)
        lower, upper = figures["speedup_quartiles"]
        lines.append(
            f"batch {batch}: {figures['base_fps']:.2f} → {figures['patched_fps']:.2f} images/s, "
            f"speed-up {figures['speedup']:.2f} ({lower:.2f} to {upper:.2f} over "
            f"{figures['pairs']} pairs), peak memory {figures['base_memory_mb']:.1f} → "
            f"{figures['patched_memory_mb']:.1f} MB"
        )
    return "\n".join(lines)
