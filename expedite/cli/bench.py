"""`expedite bench`: the speed and memory of one plan, and where its time goes."""

from dataclasses import asdict
from typing import Annotated, Any

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
    image_size_of,
    images_for,
    optional_plan,
    show,
    working_on,
)
from expedite.errors import ExpediteError
from expedite.measure.mode import COMPILE_MODES, PLAIN, Mode
from expedite.terminal.table import Column, Listing


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
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    if plan is None:
        raise ExpediteError("no alpha was given; a bench times a plan against the unpatched model")
    mode, size = Mode(dtype, compile_mode), image_size_of(image_size)
    with working_on(f"loading {model}") as status:
        from expedite.loading import load_model
        from expedite.measure.bench import Bench
        from expedite.measure.speed import setting, twin
        from expedite.patching import patch

        loaded = load_model(model, size, classes, checkpoint)
        base = loaded.model.to(find_device(device), mode.torch_dtype)
        fast = patch(twin(base), plan)
        bench = Bench(base, fast, mode, seconds, status.step)
        one = images_for(loaded).to(find_device(device), mode.torch_dtype)
        status.step("running the patched model once")
        under = setting(fast, one, compile_mode)
        content = {
            "model": model,
            "plan": asdict(plan),
            "setting": asdict(under),
            "latency": bench.measure(one),
            "throughput": {
                "batch_size": batch_size,
                **bench.measure(one.expand(batch_size, -1, -1, -1)),
            },
        }
    show(content, _told(content, str(under)), as_json)


def _told(content: dict[str, Any], under: str) -> list[str | Listing]:
    measured = (content["latency"], content["throughput"])
    return [under, *map(_speed, measured), _parts(*measured)]


def _speed(figures: dict[str, Any]) -> str:
    batch = figures.get("batch_size", 1)
    lower, upper = figures["speedup_quartiles"]
    from expedite.evaluate.recommend import LEAST_SPEEDUP

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


def _parts(*measured: dict[str, Any]) -> str | Listing:
    """A table of where the time of a patched call goes, a column for each batch."""
    from expedite.measure.parts import PARTS

    if measured[0]["parts"] is None:
        return (
            "Where the time goes cannot be told of compiled code, which runs in one piece; "
            "--compile none shows it."
        )
    columns = [figures["parts"] for figures in measured]
    batches = [f"batch {figures.get('batch_size', 1)}" for figures in measured]
    titles = [Column("a patched call's time"), *(Column(batch, right=True) for batch in batches)]
    table = Listing(titles)
    for part in PARTS:
        if any(column["seconds"][part] for column in columns):
            table.add(part, *(_part_text(column, part) for column in columns))
    table.add("all parts, of a call", *(f"{column['share']:.1%}" for column in columns))
    return table


def _part_text(column: dict[str, Any], part: str) -> str:
    seconds = column["seconds"][part]
    return f"{1000 * seconds:.1f} ms {seconds / column['whole']:6.1%}"
