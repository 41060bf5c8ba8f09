"""Content with one thing in it changed: what a file might hold that nobody meant to write."""

from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from math import inf, nan
from typing import Any

# Of every kind that JSON and YAML have, and a few that code trips over.
ODD: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\n", "[b]", "1e400", 0, -1, 3, 1 << 40, 1 << 70),
    *(0.5, -1.5, nan, inf, -inf, [], {}, [[]], [None], [0], ["x"], {"x": 1}, {"": []}),
    [[0, 0], [0, 0]],
)
ODD_YAML = (*ODD, date(2020, 1, 1), b"\x00", {1: 2}, {None: 3}, (8, 8), {(1, 2): 3})


def damaged(content: Any, odd: tuple[Any, ...] = ODD) -> Iterator[Any]:
    """Copies of content with every part in turn left out, or replaced by everything odd."""
    for path in _paths(content):
        for value in odd:
            yield _changed(content, path, value)
        if path:
            yield _without(content, path)


def _paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    parts = content.items() if isinstance(content, dict) else ()
    for key, value in enumerate(content) if isinstance(content, list) else parts:
        yield from _paths(value, (*path, key))


def _changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = deepcopy(content)
    _holder(copy, path)[path[-1]] = value
    return copy


def _without(content: Any, path: tuple[Any, ...]) -> Any:
    copy = deepcopy(content)
    del _holder(copy, path)[path[-1]]
    return copy


def _holder(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content
