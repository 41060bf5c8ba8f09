"""The one exception type of the package."""


class ExpediteError(ValueError):
    """A request that cannot be met: one sentence with what was asked, found, and would work."""
