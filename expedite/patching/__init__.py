"""How any model is patched; which models are known is said in `patchers`."""

from expedite.patching.applying import patch, patched, unpatch
from expedite.patching.describing import Description, describe, grid_of

__all__ = ["Description", "describe", "grid_of", "patch", "patched", "unpatch"]
