"""Make trained vision transformers for dense prediction faster, with no training or new weights."""

from typing import TYPE_CHECKING

from expedite.errors import ExpediteError
from expedite.version import __version__

__all__ = [
    "ExpediteError",
    "Host",
    "Plan",
    "Span",
    "__version__",
    "calibrate",
    "describe",
    "export",
    "load",
    "patch",
    "patched",
    "tune",
    "unpatch",
]

if TYPE_CHECKING:
    from expedite.evaluate.calibrating import calibrate
    from expedite.evaluate.tuning import tune
    from expedite.exporting.exporting import export
    from expedite.loading import load
    from expedite.patching import describe, patch, patched, unpatch
    from expedite.patching.host import Host
    from expedite.plan import Plan, Span
else:
    # Names come from their homes when they are first asked for (PEP 562): the command line passes
    # through here, and its help and its refusals are not to wait for PyTorch.
    from importlib import import_module

    _HOMES = {
        "Host": "expedite.patching.host",
        "Plan": "expedite.plan",
        "Span": "expedite.plan",
        "calibrate": "expedite.evaluate.calibrating",
        "describe": "expedite.patching",
        "export": "expedite.exporting.exporting",
        "load": "expedite.loading",
        "patch": "expedite.patching",
        "patched": "expedite.patching",
        "tune": "expedite.evaluate.tuning",
        "unpatch": "expedite.patching",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(_HOMES[name]), name)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
