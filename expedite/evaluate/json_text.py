"""JSON that every program reads: it knows no number that is none."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def json_text(content: Any) -> str:
    """Content as indented JSON, with null for NaN and infinities.

    Example:
        >>> json_text([float("nan"), 0.5]).split()
        ['[', 'null,', '0.5', ']']
    """
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
