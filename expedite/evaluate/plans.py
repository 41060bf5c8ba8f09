"""Plans of a sweep: from lists of values, or from a YAML file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from expedite.errors import ExpediteError
from expedite.evaluate.comparators import plan_of_spans
from expedite.measure.mode import Job, Mode, modes_of
from expedite.models.descriptions import describing, read_yaml_value
from expedite.plan import Plan, Span

Item = TypeVar("Item")
Number = TypeVar("Number", int, float)
Size = tuple[int, int]
_SPAN = tuple(field.name for field in fields(Span))


def read_plans(
    path: Path, dtypes: Sequence[str] = (Mode.dtype,), compiles: Sequence[str] = (Mode.compile,)
) -> list[Job]:
    """The plans that a YAML file lists, with their modes.

    Each is a mapping of `method`, `alpha`, `clusters` or `keep`, `beta` and settings of the plan,
    and of `dtype` and `compile` of a mode; a list in place of a value makes a plan of each. `spans`
    in place of alpha and so on is a list of such mappings, for a plan of several spans.

    Args:
        path: The file.
        dtypes: Of plans that have none of their own.
        compiles: The same of how they are compiled.

    Raises:
        ExpediteError: The file is not readable, is not such a list, or a plan is impossible.
    """
    content = read_yaml_value(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ExpediteError(
            f"{path} holds no list of plans; entries such as "
            "'- {method: expedite, alpha: 4, clusters: 14}' are due"
        )
    usual = {"dtype": [*dtypes], "compile": [*compiles]}
    with describing(path, "plan"):
        jobs = unique(job for entry in content for job in _jobs({**usual, **entry}))
    if not jobs:
        raise ExpediteError(f"{path} lists no plan")
    return jobs


def grid_of_plans(
    methods: Sequence[str],
    alphas: Sequence[Sequence[int]],
    sizes: Sequence[tuple[Sequence[Size] | None, Sequence[float] | None]],
    beta: int | None,
    settings: Mapping[str, Sequence[Any]],
) -> list[Plan]:
    """Every combination.

    Args:
        methods: Names, see `comparators.plan_of`.
        alphas: α of each span of a plan.
        sizes: Cluster grids of each span, or shares to keep; one stands for all spans.
        beta: Of all spans.
        settings: Values of other settings by their names.

    Raises:
        ExpediteError: A combination is impossible.

    Example:
        >>> plans = grid_of_plans(["expedite"], [[2], [4]], [([(14, 14)], None)], None, {})
        >>> [plan.spans[0].alpha for plan in plans]
        [2, 4]
    """
    combinations = [
        dict(zip(settings, chosen, strict=True)) for chosen in product(*settings.values())
    ]
    return unique(
        plan_of_spans(method, _spans(method, alpha, clusters, keeps, beta), **chosen)
        for method, alpha, (clusters, keeps), chosen in product(
            methods, alphas, sizes, combinations
        )
    )


def unique(items: Iterable[Item]) -> list[Item]:
    """Items without repetitions, in their order."""
    return list(dict.fromkeys(items))


def parse_number(kind: type[Number], text: str) -> Number:
    """A number from text."""
    try:
        return kind(text)
    except ValueError as error:
        raise ExpediteError(f"'{text}' was given where a number is due") from error


def parse_size(text: str) -> Size:
    """Turn 640 into (640, 640), and 352x1216 into (352, 1216)."""
    sides = [parse_number(int, side) for side in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ExpediteError(f"the size '{text}' was given; 28 or 15x52 (rows x columns) are sizes")
    return sides[0], sides[-1]


def _jobs(entry: dict[str, Any]) -> Iterator[Job]:
    spans = entry.pop("spans", None)
    choices = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
    dtypes, compiles = (map(str, choices.pop(name)) for name in ("dtype", "compile"))
    methods = choices.pop("method", ["expedite"])
    for mode, name, *chosen in product(modes_of(dtypes, compiles), methods, *choices.values()):
        yield Job(_plan(str(name), spans, dict(zip(choices, chosen, strict=True))), mode)


def _plan(method: str, spans: Any, values: dict[str, Any]) -> Plan:
    own = {name: values.pop(name) for name in _SPAN if name in values}
    if spans is None:
        alpha = 0 if method == "downsample" else own.pop("alpha", None)
        return plan_of_spans(method, (_span({**own, "alpha": alpha}),), **values)
    if own or not isinstance(spans, list) or not all(isinstance(span, dict) for span in spans):
        raise ExpediteError(
            f"spans={spans!r} was asked{' with ' + ', '.join(own) if own else ''}; a list of "
            "mappings of alpha, clusters or keep, and beta is due, and none of these beside it"
        )
    return plan_of_spans(method, tuple(map(_span, spans)), **values)


def _span(values: dict[str, Any]) -> Span:
    if unknown := [name for name in values if name not in _SPAN]:
        raise ExpediteError(f"a span with '{unknown[0]}' was asked; known are {', '.join(_SPAN)}")
    if values.get("alpha") is None:
        raise ExpediteError("a plan without alpha was asked; every span has one")
    clusters = values.get("clusters")
    sized = {"clusters": parse_size(clusters)} if isinstance(clusters, str) else {}
    return Span(**{**values, **sized})


def _spans(
    method: str,
    alphas: Sequence[int],
    clusters: Sequence[Size] | None,
    keeps: Sequence[float] | None,
    beta: int | None,
) -> tuple[Span, ...]:
    if method == "downsample":
        alphas, beta = [0], None
    found = clusters or keeps or ()
    sizes = [*found] * len(alphas) if len(found) == 1 else [*found]
    if len(sizes) != len(alphas):
        raise ExpediteError(
            f"{len(alphas)} spans were asked with the sizes of {len(sizes)}; one size for all, or "
            "one for each is due"
        )
    name = "clusters" if clusters else "keep"
    pairs = zip(alphas, sizes, strict=True)
    return tuple(_span({"alpha": alpha, name: size, "beta": beta}) for alpha, size in pairs)
