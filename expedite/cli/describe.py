"""`expedite describe`: what a model is, and what a plan leaves of its tokens."""

from dataclasses import asdict

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


def describe_command(
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
    """Say what a model is to expedite, and what a plan would leave of its tokens."""
    plan = optional_plan(alpha, clusters, keep, beta, method, reconstruct_at, settings)
    size = image_size_of(image_size)
    with working_on(f"loading {model}") as status:
        from expedite.loading import load_model
        from expedite.patching import describe, grid_of, patch

        loaded = load_model(model, size, classes, checkpoint)
        if plan is not None:
            patch(loaded.model, plan)
        status.step("running it once")
        found = describe(loaded.model, grid_of(loaded.model, images_for(loaded)))
    show({"model": model, **asdict(found)}, [str(found)], as_json)
