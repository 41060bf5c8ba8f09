"""What a plan that is searched for must meet; the search is `tune`."""

from dataclasses import dataclass

from expedite.errors import ExpediteError


@dataclass(frozen=True)
class Budget:
    """What a plan must meet; exactly one is given."""

    speedup: float | None = None
    fidelity: float | None = None
    gflops: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise ExpediteError(
                f"{' and '.join(given) or 'no budget'} was asked; one of speedup, fidelity and "
                "gflops is due"
            )
        if (value := vars(self)[given[0]]) <= 0 or (self.fidelity or 0) > 1:
            raise ExpediteError(
                f"{given[0]}={value} was asked; above 0 is due, and of fidelity at most 1"
            )

    def __str__(self) -> str:
        return next(f"{name}={value:g}" for name, value in vars(self).items() if value is not None)
