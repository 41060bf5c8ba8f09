"""Make trained vision transformers for dense prediction faster, with no training or new weights."""

import expedite.patchers  # noqa: F401  known from here on
from expedite.errors import ExpediteError
from expedite.evaluate.tuning import tune
from expedite.exporting import export
from expedite.loading import load
from expedite.patching import describe, patch, patched, unpatch
from expedite.patching.host import Host
from expedite.plan import Plan, Span
from expedite.version import __version__

__all__ = [
    "ExpediteError",
    "Host",
    "Plan",
    "Span",
    "__version__",
    "describe",
    "export",
    "load",
    "patch",
    "patched",
    "tune",
    "unpatch",
]
