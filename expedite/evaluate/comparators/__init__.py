"""Rival methods by name, patched into the same hosts by the same hooks as expedite's own operators.

One file is one method. `expedite.patch` takes their plans, `expedite sweep --method` their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, cast, get_args

from expedite.errors import ExpediteError
from expedite.evaluate.comparators.rival import Rival
from expedite.plan import Method, Plan, Span, make_plan

_PLAIN = {"log_mass": False, "delta": False}


@dataclass(frozen=True)
class Entry:
    """A rival method: what it is, in words, and the settings that its plans begin with."""

    what: str
    settings: Mapping[str, Any]


RIVALS: Mapping[str, Entry] = {
    "pool": Entry(
        "adaptive average pooling, bilinear upsampling",
        {**_PLAIN, "merge": "pool", "returns": "bilinear"},
    ),
    "pool+weights": Entry(
        "adaptive average pooling, expedite's reconstruction",
        {"merge": "pool", "returns": "weights"},
    ),
    "clusters+bilinear": Entry(
        "expedite's clusters, bilinear upsampling",
        # Upsampling needs every cluster in its cell.
        {"delta": False, "relocated": 0.0, "merge": "clusters", "returns": "bilinear"},
    ),
    "downsample": Entry("a smaller image", {**_PLAIN, "merge": "image", "returns": "bilinear"}),
    "tome": Entry(
        "ToMe once, with proportional attention, copied back",
        {**_PLAIN, "log_mass": True, "merge": "tome", "returns": "copy"},
    ),
    "tome+delta": Entry(
        "the same with delta",
        {**_PLAIN, "log_mass": True, "delta": True, "merge": "tome", "returns": "copy"},
    ),
    "tome+weights": Entry(
        "ToMe once, expedite's reconstruction",
        {"reconstruction": "knn", "merge": "tome", "returns": "weights"},
    ),
    "tome-blocks": Entry(
        "ToMe around every attention and MLP, copied back",
        {**_PLAIN, "merge": "blocks", "returns": "copy"},
    ),
    "evit": Entry(
        "EViT: the tokens that the class token attends to, the others as one",
        {**_PLAIN, "merge": "evit", "returns": "copy"},
    ),
}
METHODS = (*get_args(Method), *RIVALS)


def plan_of(
    method: str,
    alpha: int = 0,
    clusters: int | tuple[int, int] | None = None,
    *,
    keep: float | None = None,
    beta: int | None = None,
    **settings: Any,
) -> Plan:
    """The plan of one span of any method, expedite's own two included.

    Args:
        method: One of `METHODS`.
        alpha: See `Span`, as for `clusters`, `keep` and `beta`. Downsampling has no use for it.
        clusters: See `Span`.
        keep: See `Span`.
        beta: See `Span`.
        settings: Other fields of `Plan` that the method has use for.

    Raises:
        ExpediteError: The method or a setting is not known, or has no use here.

    Example:
        >>> plan_of("tome", 4, 14).log_mass
        True
    """
    if method == "downsample":
        alpha, beta = 0, None
    return plan_of_spans(method, (Span(alpha, clusters, keep, beta),), **settings)


def plan_of_spans(method: str, spans: tuple[Span, ...], **settings: Any) -> Plan:
    """The plan of any number of spans; see `plan_of`."""
    if method in get_args(Method):
        plan = make_plan(0, 1, method=cast(Method, method), **settings)
        return replace(plan, spans=spans)
    if method not in RIVALS:
        raise ExpediteError(f"the method '{method}' was asked; {', '.join(METHODS)} are known")
    plain = Rival(spans, **RIVALS[method].settings)
    if useless := [name for name in settings if name not in plain.uses]:
        known = ", ".join(sorted(plain.uses)) or "none"
        raise ExpediteError(
            f"the setting '{useless[0]}' was asked of '{method}', which has no use for it; "
            f"it has use for: {known}"
        )
    return replace(plain, **settings)


@cache
def method_of(plan: Plan) -> str:
    """The method that a plan is of, with the settings in which it differs from that.

    Example:
        >>> method_of(plan_of("paper", 4, 14, k=9)), method_of(plan_of("evit", 4, 14))
        ('paper k=9', 'evit')
    """
    return min((_described(name, plan) for name in METHODS), key=lambda found: found[:2])[2]


def _described(method: str, plan: Plan) -> tuple[bool, int, str]:
    """Whether a plan is of another kind than a method's, how many settings differ, and both."""
    plain = plan_of_spans(method, plan.spans[:1])
    if type(plain) is not type(plan):
        return True, 0, method
    names = [field.name for field in fields(plan) if field.name != "spans"]
    differing = [name for name in names if getattr(plan, name) != getattr(plain, name)]
    texts = (f"{name}={getattr(plan, name)}" for name in differing)
    return bool({"merge", "returns"} & set(differing)), len(differing), " ".join([method, *texts])
