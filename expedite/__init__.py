"""Make trained vision transformers for dense prediction faster, with no training or new weights."""

from expedite.errors import ExpediteError
from expedite.exporting import export
from expedite.loading import load
from expedite.patchers.host import Host
from expedite.patching import describe, patch, patched, unpatch
from expedite.plan import Plan, Span
from expedite.tuning import tune
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
