"""What a published setting is; the settings are in `recipes`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from expedite.plan import Plan, make_plan

# With what our counts were last held against the published ones.
COUNTED_WITH = {"torch": "2.15.0", "timm": "1.0.31", "transformers": "5.23.0"}


@dataclass(frozen=True)
class Row:
    """One line of a published table.

    Args:
        plan: In our terms; None for the unpatched model.
        gflops: As printed; None where no count was.
        fps: Images per second.
        metric: As printed, see the recipe's `metric`; None where none was measured.
        note: Where the plan is not what the table or the published code says.
        reason: Why our count differs from the published one, where it does by more than 2.5 %.
    """

    plan: Plan | None
    gflops: float | None
    fps: float | None
    metric: float | None
    note: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Recipe:
    """A model as it was published, with the rows that were measured on it.

    Args:
        name: How it is asked for, wherever a MODEL is.
        model: What builds it, in the grammar of `loading.load`.
        image_size: (height, width) in pixels of an image, or of a sliding window.
        classes: How many, where the model can have any number.
        metric: The name of the rows' metric.
        checkpoint: Name of the published file of weights.
        origin: Where it was published.
        rows: The unpatched model's first.
        flops_per_multiply_add: The convention of the published counts; ours is 1.
        dataset: What it was trained on, as `evaluate.datasets.LABEL_RULES` calls it.
        windows: Pixels of an image's shorter side and between sliding windows, where there are any.
        counted: The part of the model that published counts are of, where they are not of all.
    """

    name: str
    model: str
    image_size: tuple[int, int]
    classes: int | None
    metric: str
    checkpoint: str
    origin: str
    rows: tuple[Row, ...]
    flops_per_multiply_add: int = 1
    dataset: str = ""
    windows: tuple[int, int] | None = None
    counted: str = ""


# The published code takes first cells by nearest interpolation and gives weights a Euclidean norm
# of 1; its τ multiplies squared distances, ours divides them. All spans end with the last block, or
# with their stage.
paper: Callable[..., Plan] = partial(make_plan, method="paper", weights="l2", nearest_cells=True)
