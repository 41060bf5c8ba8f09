"""Multiply-adds counted once for models of one structure.

Counting traces a model, which is two thirds of a small sweep's time; tests of what a command
prints, writes and refuses sweep the same few models with the same few plans a hundred times. What
is counted is tested in tests/measure/test_flops.py.
"""

from collections.abc import Hashable

from torch import Tensor, nn

from expedite.measure.flops import FlopCount, count_flops
from expedite.patching.hooks import find_sessions

COUNTING = [f"expedite.evaluate.{name}.count_flops" for name in ("sweep", "tune", "recipes")]
_FOUND: dict[Hashable, FlopCount] = {}


def counted_once(model: nn.Module, images: Tensor) -> FlopCount:
    """`count_flops`, or what it gave for such a model before."""
    key = _structure(model, images)
    if key not in _FOUND:
        _FOUND[key] = count_flops(model, images)
    return _FOUND[key]


def _structure(model: nn.Module, images: Tensor) -> Hashable:
    """All that multiply-adds depend on: every layer and its settings, every shape, the plan."""
    return (
        tuple((type(one), one.extra_repr()) for one in model.modules()),
        tuple((one.shape, one.dtype) for one in model.state_dict().values()),
        tuple(repr(session.plan) for session in find_sessions(model)),
        (images.shape, images.dtype),
    )
