"""A plan of a rival method: spans like any plan's, with operators of its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from expedite.errors import ExpediteError
from expedite.evaluate.comparators.ways import Merge, Return
from expedite.plan import Plan

if TYPE_CHECKING:
    from expedite.evaluate.comparators.base import RivalSession
    from expedite.patching.host import Host

# How the full grid can return from each; the first where nothing else is said.
_RETURNS: dict[Merge, tuple[Return, ...]] = {
    "clusters": ("bilinear",),
    "pool": ("bilinear", "weights"),
    "tome": ("copy", "weights"),
    "evit": ("copy", "weights"),
    "blocks": ("copy",),
    "image": ("bilinear",),
}
_EXITS = ("log_mass", "delta", "reconstruct_at")
_DISTANCES = ("temperature", "projection", "basis", "space")
_CENTROIDS = ("sharpness", "length")
_CLUSTERING = ("iterations", "neighborhood", "nearest_cells", "hard", *_CENTROIDS, *_DISTANCES)
_WEIGHING = ("reconstruction", "weights", "k", *_DISTANCES)


@dataclass(frozen=True)
class Rival(Plan):
    """A plan that `expedite.patch` carries out with a rival method's operators.

    Fields of `Plan` that the method has no use for change nothing: of those that say how clusters
    are made only `merge="clusters"` has use, of those that say how tokens are weighed only
    `returns="weights"`.

    Args:
        merge: How tokens become fewer: "clusters" as expedite has them, "pool", "tome", "evit",
            "blocks" (ToMe around attention and MLP), "image" (the image itself is made smaller).
        returns: How the full grid returns: by "weights" as expedite has it, "bilinear", or "copy".

    Raises:
        ExpediteError: As `Plan`, or the two do not go together.

    Example:
        >>> import timm, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> plan = Rival((expedite.Span(4, 7),), merge="pool", returns="bilinear")
        >>> expedite.describe(expedite.patch(model, plan)).kept
        ((7, 7),)
    """

    merge: Merge = "pool"
    returns: Return = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration is not None:
            raise ExpediteError(
                f"calibration='{self.calibration}' was asked of merge='{self.merge}'; it is for "
                "expedite's own clusters"
            )
        if self.merge not in get_args(Merge):
            known = ", ".join(get_args(Merge))
            raise ExpediteError(f"merge={self.merge!r} was asked; {known} are known")
        if self.returns not in _RETURNS[self.merge]:
            known = " and ".join(map(repr, _RETURNS[self.merge]))
            raise ExpediteError(
                f"returns={self.returns!r} was asked after merge={self.merge!r}; {known} can follow"
            )
        if self.merge == "image" and len(self.spans) > 1:
            raise ExpediteError(
                f"{len(self.spans)} spans were asked of downsampling; an image has one size"
            )

    @property
    def uses(self) -> frozenset[str]:
        """The fields, besides spans and the two of its own, that change what it does."""
        tokens_merge = self.merge not in ("blocks", "image")
        return frozenset().union(
            _EXITS if tokens_merge else (),
            _CLUSTERING if self.merge == "clusters" else (),
            _WEIGHING if self.returns == "weights" else (),
        )

    def session(self, host: "Host") -> "RivalSession":
        """The state of a host that is patched with this plan."""
        # A plan is read without PyTorch, which its sessions need.
        from expedite.evaluate.comparators.sessions import SESSIONS

        return SESSIONS[self.merge](host, self, self.returns)
