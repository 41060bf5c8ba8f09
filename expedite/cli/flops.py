"""`expedite flops`: the multiply-adds of one plan."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from expedite.cli.options import (
    Alpha,
    AsJson,
    Beta,
    Checkpoint,
    Classes,
    Clusters,
    ImageSize,
    Keep,
    Method,
    Model,
    ReconstructAt,
    Settings,
    image_size_of,
    images_for,
    optional_plan,
    show,
    working_on,
)

if TYPE_CHECKING:
    from expedite.measure.flops import FlopCount


def flops_command(
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
    as_json: AsJson = False,
) -> None:
    """Count the GFLOPs (multiply-adds) of one image, unpatched and patched."""
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    size = image_size_of(image_size)
    with working_on(f"loading {model}") as status:
        from expedite.loading import load_model
        from expedite.measure.flops import count_flops
        from expedite.patching import patch

        loaded = load_model(model, size, classes, checkpoint)
        images = images_for(loaded)
        status.step("counting the unpatched model")
        base = count_flops(loaded.model, images)
        status.step("counting the patched model")
        patched = count_flops(patch(loaded.model, plan), images) if plan else None
    content = {
        "model": model,
        "image_size": list(loaded.image_size),
        "plan": asdict(plan) if plan else None,
        "gflops": _gflops(base, patched),
        "unsupported_ops": {**base.unsupported, **(patched.unsupported if patched else {})},
    }
    show(content, [_flops_text(content)], as_json)


def _gflops(base: "FlopCount", patched: "FlopCount | None") -> dict[str, float | None]:
    return {
        "base": base.total,
        "patched": patched.total if patched else None,
        "operators": patched.operators if patched else None,
        "ratio": patched.total / base.total if patched else None,
    }


def _flops_text(content: dict[str, Any]) -> str:
    gflops = content["gflops"]
    lines = [f"unpatched {gflops['base']:.1f} GFLOPs (multiply-adds)"]
    if gflops["patched"] is not None:
        lines.append(
            f"patched   {gflops['patched']:.1f} GFLOPs ({gflops['ratio']:.1%}), of which "
            f"{gflops['operators']:.1f} are clustering and reconstruction"
        )
    if content["unsupported_ops"]:
        lines.append(f"not counted: {', '.join(content['unsupported_ops'])}")
    return "\n".join(lines)
