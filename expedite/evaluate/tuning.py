"""Finding a plan that meets a budget; the search itself is `evaluate.tune`, loaded when called."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from expedite.loading import TaskName
from expedite.plan import Plan


def tune(
    model: nn.Module,
    images: Tensor | Sequence[Tensor],
    *,
    speedup: float | None = None,
    fidelity: float | None = None,
    gflops: float | None = None,
    task: TaskName | None = None,
    seconds: float = 2.0,
    protect: Sequence[int | Literal["small", "boundary"]] = (),
) -> Plan:
    """Find α and clusters that meet a budget with the highest fidelity, without labels.

    Costs are predicted by counting GFLOPs; only plans near the front are run and timed.

    Args:
        model: A trained model of a known family, not patched; it stays as it is.
        images: (B, 3, H, W) as the model takes them, or several (3, H, W); a dozen or two of what
            it is to be used on. The first says at what size plans are timed.
        speedup: At least so many times as fast as the unpatched model, on this machine; or
        fidelity: at least so much agreement with its answers, from 0 to 1, as fast as can be; or
        gflops: at most so many GFLOPs (multiply-adds) an image.
        task: What the model's output is, where that cannot be told by a look at it.
        seconds: How long to time each plan.
        protect: For segmentation, what must not fall behind the rest: "small" parts, "boundary"
            pixels, or classes by their indices. Fidelity is the lowest of all then: the mean IoU
            with the unpatched model's maps, and these.

    Returns:
        The plan, for `expedite.patch(model, plan)`.

    Raises:
        ExpediteError: Not exactly one budget is given, none of the plans meets it, or the best that
            does is less than 1.02 times as fast as the unpatched model.

    Example:
        >>> import timm, torch, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> expedite.tune(model, torch.randn(2, 3, 224, 224), gflops=0.1)
        Traceback (most recent call last):
            ...
        expedite.errors.ExpediteError: gflops=0.1 was asked and no plan meets it; the fewest ...
    """
    from expedite.evaluate.tune import search_model

    found = search_model(
        model,
        images,
        speedup=speedup,
        fidelity=fidelity,
        gflops=gflops,
        task=task,
        seconds=seconds,
        protect=protect,
    )
    return found.plan
