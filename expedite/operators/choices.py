"""What operators can be asked for by name or number, and refusals; read without PyTorch."""

from typing import Literal, get_args

from expedite.errors import ExpediteError

Basis = Literal["principal", "hashed"]
Scope = Literal["local", "knn"]
Weighting = Literal["kriging", "linear", "softmax", "l2", "hard"]

# Of the weights that are of the nearest clusters alone.
NEAREST = 8
_SHARPEST = 20  # e²⁰ is far from what float32 can hold


def check_weights(weights: str, k: int | None) -> int | None:
    """How many nearest clusters are weighed, None for all; refuse a `k` that nothing would use."""
    if weights == "kriging":
        if k is not None:
            raise ExpediteError(
                f"k={k} nearest clusters were asked with weights='kriging', which weighs all that "
                "it reaches; weights='linear' takes k"
            )
        return None
    if weights not in get_args(Weighting):
        known = ", ".join(get_args(Weighting))
        raise ExpediteError(f"the weights {weights!r} were asked; {known} are known")
    if k is not None and k < 1:
        raise ExpediteError(f"k={k} nearest clusters were asked; at least 1 is needed")
    return NEAREST if k is None else k


def check_sharpness(sharpness: float, hard: bool) -> None:
    """Refuse what no centroid can be made with.

    Raises:
        ExpediteError: It is below 0, or needs a hard last step that was not asked for.
    """
    is_number = isinstance(sharpness, (int, float)) and not isinstance(sharpness, bool)
    if not (is_number and 0 <= sharpness <= _SHARPEST):
        raise ExpediteError(f"sharpness={sharpness!r} was asked; a number from 0 to 20 works")
    if sharpness and not hard:
        raise ExpediteError(
            f"sharpness={sharpness} was asked with hard=False; tokens of several clusters have no "
            "distance to one centre, hard=True or sharpness=0 would work"
        )
