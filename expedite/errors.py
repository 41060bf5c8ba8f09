"""The one exception type of the package, and others' errors in a line."""


class ExpediteError(ValueError):
    """A request that cannot be met: one sentence with what was asked, found, and would work."""


class MisfitError(ExpediteError):
    """Weights are not those of the model that they were to fill."""


class ToldElsewhereError(ExpediteError):
    """What another process of the same work tells."""


def first_line(error: Exception) -> str:
    """What an error is and the first line that it says."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
