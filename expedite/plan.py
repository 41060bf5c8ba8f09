"""What is asked of a model: spans of blocks that run on clusters, and the operators' settings.

Values are validated once, here; whether a plan fits a model shows when it is patched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from expedite.errors import ExpediteError
from expedite.operators.choices import Basis, Scope, Weighting, check_sharpness, check_weights

Method = Literal["expedite", "paper"]
Exit = Literal["backbone", "head"]
Space = Literal["norm", "normalized", "tokens"]
Tables = Literal["offsets", "resized"]
Depth = int | Sequence[int]  # how many blocks; of every stage, where there are stages

# The paper's operators: every improvement turned off (ablations of Section 4.3: κ 5, λ 5×5, τ 50,
# k 20; Eq. 4 over all clusters).
_PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "temperature": 50.0,
        "projection": None,
        "basis": "hashed",
        "space": "tokens",
        "sharpness": 0.0,
        "length": 0.0,
        "log_mass": False,
        "reconstruction": "knn",
        "weights": "softmax",
        "k": 20,
        "delta": False,
        "position_tables": "resized",
        "hard": False,
        "relocated": 0.0,
    }
)


# How much less tokens count in their centroid the further they are from it.
SHARPNESS = 2.0
# The power of the tokens' mean length over a centroid's own by which it is made longer.
LENGTH = 2.0
_DIRECTIONS: Mapping[Basis, int] = MappingProxyType({"principal": 32, "hashed": 64})
_LEFT_OPEN = ("basis", "space", "sharpness", "length")
_ON_MAPS: Mapping[str, Any] = MappingProxyType(
    {"basis": "principal", "space": "normalized", "sharpness": SHARPNESS, "length": LENGTH}
)
_IN_WINDOWS: Mapping[str, Any] = MappingProxyType(
    {"basis": "hashed", "space": "norm", "sharpness": 0.0, "length": 0.0}
)


@dataclass(frozen=True)
class Span:
    """One descent to clusters and return.

    Args:
        alpha: How many blocks run at full resolution before it.
        clusters: The cluster grid, rows first; an int n means n×n.
        keep: In place of clusters, the share to keep of the tokens that the span begins with:
            round(√keep · side) per side.
        beta: How many blocks run on clusters; None for all that remain before the next span or, in
            a model with stages, in the stage.

    Raises:
        ExpediteError: A value is impossible, or not exactly one of clusters and keep is given.

    Example:
        >>> Span(alpha=10, clusters=28).grid_for((40, 40))
        (28, 28)
        >>> Span(alpha=10, keep=0.25).grid_for((22, 76))
        (11, 38)
    """

    alpha: int
    clusters: int | tuple[int, int] | None = None
    keep: float | None = None
    beta: int | None = None

    def __post_init__(self) -> None:
        _check_count("alpha", self.alpha, least=0)
        if self.beta is not None:
            _check_count("beta", self.beta, least=1)
        if (self.clusters is None) == (self.keep is None):
            raise ExpediteError(
                f"clusters={self.clusters} and keep={self.keep} were asked; exactly one of the two "
                "says how many tokens remain"
            )
        if self.keep is not None and not (_is_number(self.keep) and 0 < self.keep < 1):
            raise ExpediteError(f"keep={self.keep!r} was asked; a share lies between 0 and 1")
        if self.clusters is not None:
            object.__setattr__(self, "clusters", _pair(self.clusters))

    def grid_for(self, grid: tuple[int, int]) -> tuple[int, int]:
        """The cluster grid (h, w) on a grid of tokens (H, W)."""
        if isinstance(self.clusters, tuple):
            return self.clusters
        assert self.keep is not None  # one of the two is given
        side = self.keep**0.5
        return max(1, round(side * grid[0])), max(1, round(side * grid[1]))


@dataclass(frozen=True)
class Plan:
    """Spans that do not overlap, and how clusters are made and undone.

    Args:
        spans: One or more; a span that begins where the last one ends goes on from its clusters.
        iterations: EM steps κ.
        neighborhood: Side λ of the square of cells that a token may join.
        temperature: τ of the softmax over squared distances, or "auto", see `clustering.cluster`.
        projection: How many numbers stand for a token where distances are measured; None measures
            on all channels, "auto" takes 32 of the principal basis and 64 of the hashed one.
        basis: Which numbers: "principal" for the image's own directions of largest variance,
            "hashed" for sums of channels with random signs, see `metric.standardize`. None takes
            the former, and the latter in windows, whose tokens are few.
        space: Where distances are measured: "tokens" on the tokens, "normalized" on each without
            its mean and of unit variance, "norm" on what the next block's first norm makes of them,
            whose weights say how much of a channel goes into attention (on the tokens where a block
            has none). None takes "normalized", and "norm" in windows.
        sharpness: How much less tokens count in their cluster token the further they are from it,
            see `centroids.sharpen`. None takes `SHARPNESS`, and 0 without `hard` or in windows.
        length: How much longer cluster tokens are than those means, see `centroids.lengthen`. None
            takes `LENGTH`, and 0 in windows.
        log_mass: Add the log of its mass to every cluster's attention scores as a key.
        reconstruction: See `reconstruction.token_weights`, as for `weights` and `k`.
        weights: See `reconstruction.token_weights`.
        k: See `reconstruction.token_weights`; resolved to a number where there is one.
        delta: Add the changes of clusters to the tokens as they were, in place of replacing them;
            None means True at the backbone and False at the head, where it makes the head's
            projections run on every token and was measured to bring nothing.
        reconstruct_at: "backbone", or "head" for heads that work token by token.
        hard: In the last EM step every token joins its nearest cluster alone.
        relocated: The share of the clusters that leave even ground for single tokens at last, see
            `relocation.relocate`. None means `relocation.SHARE`, and 0 without `hard` or where
            blocks, or a span that goes on from the clusters, take them to stand in regular cells,
            but for Swin's (not SwinV2's) within the windows that were clustered each alone.
        nearest_cells: Take a token's first cell as the published code does.
        window_borders: In hosts with windows, cluster every window alone; False clusters the whole
            map to as many clusters.
        window_padding: In hosts with windows, cluster the zeros that fill the last windows up as
            tokens like others, as the published code does; False clusters what is there alone.
        kept_shift: In hosts with shifted windows, mask them as for the shift of the tokens'
            windows, as the published code does, though clusters are shifted by half of theirs.
        position_tables: Where hosts keep relative positions in tables, "offsets" reads them at the
            offsets between clusters, "resized" resizes them as the published code does.
        calibration: The file of a `Calibration` of this model at this α, see `calibrate`, which
            says in which directions distances are measured, and what blocks do to clusters.

    Raises:
        ExpediteError: A value is impossible.

    Example:
        >>> plan = Plan((Span(alpha=4, clusters=20), Span(alpha=8, clusters=14)))
        >>> [(first, last) for _, first, last in plan.ranges(depth=12)]
        [(4, 8), (8, 12)]
    """

    spans: tuple[Span, ...]
    iterations: int = 5
    neighborhood: int = 5
    temperature: float | Literal["auto"] = "auto"
    projection: int | Literal["auto"] | None = "auto"
    basis: Basis | None = None
    hard: bool = True
    relocated: float | None = None
    space: Space | None = None
    sharpness: float | None = None
    length: float | None = None
    log_mass: bool = True
    reconstruction: Scope = "local"
    weights: Weighting = "kriging"
    k: int | None = None
    delta: bool | None = None
    reconstruct_at: Exit = "backbone"
    nearest_cells: bool = False
    window_borders: bool = True
    window_padding: bool = False
    kept_shift: bool = False
    position_tables: Tables = "offsets"
    calibration: str | Path | None = None

    def __post_init__(self) -> None:
        if not self.spans or not all(isinstance(span, Span) for span in self.spans):
            raise ExpediteError(f"spans={self.spans!r} was asked; a plan has one Span or more")
        object.__setattr__(self, "spans", tuple(sorted(self.spans, key=lambda span: span.alpha)))
        _check_numbers(self)
        if self.window_padding and not self.window_borders:
            raise ExpediteError(
                "window_padding was asked with window_borders=False; it fills up windows that are "
                "clustered each alone"
            )
        if self.delta is None:
            object.__setattr__(self, "delta", self.reconstruct_at != "head")
        if isinstance(self.calibration, Path):
            object.__setattr__(self, "calibration", str(self.calibration))
        if self.calibration is not None:
            _check_calibration(self)
        _check_relocated(self.relocated, self.hard)
        check_sharpness(self.sharpness or 0.0, self.hard)
        for name, kind in _CHOICES.items():
            if getattr(self, name) is not None or name not in _LEFT_OPEN:
                _check_choice(name, getattr(self, name), get_args(kind))
        object.__setattr__(self, "k", check_weights(self.weights, self.k))

    def settled(self, in_windows: bool) -> "Plan":
        """The plan with those choices made that are left to the kind of host.

        What is best for maps of thousands of tokens was measured not to be in windows.

        Example:
            >>> plan = Plan((Span(4, 7),))
            >>> plan.settled(in_windows=False).basis, plan.settled(in_windows=True).basis
            ('principal', 'hashed')
        """
        chosen = _IN_WINDOWS if in_windows else _ON_MAPS
        open_choices = {name: chosen[name] for name in _LEFT_OPEN if getattr(self, name) is None}
        if not self.hard and self.sharpness is None:
            open_choices["sharpness"] = 0.0
        settled = replace(self, calibration=None, **open_choices)
        if self.calibration is not None:  # its directions are few already
            return replace(settled, basis="hashed", projection=None)
        if settled.projection != "auto":
            return settled
        assert settled.basis is not None  # it was left open, or given
        return replace(settled, projection=_DIRECTIONS[settled.basis])

    def ranges(self, depth: Depth) -> list[tuple[Span, int, int]]:
        """Every span with the index of its first block and of the one after its last.

        Raises:
            ExpediteError: A span does not lie within `depth` blocks or within one stage, or
                overlaps the next.
        """
        ends = list(accumulate([depth] if isinstance(depth, int) else depth))
        limits = [*(span.alpha for span in self.spans[1:]), ends[-1]]
        return [
            (span, span.alpha, _end(span, limit, ends))
            for span, limit in zip(self.spans, limits, strict=True)
        ]

    def grids(
        self, depth: Depth, *grids: tuple[int, int]
    ) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """For every span the grid that it begins with and its cluster grid.

        Args:
            depth: How many blocks there are; of every stage, where there are stages.
            grids: Of tokens; of every stage, where there are stages.
        """
        ends = list(accumulate([depth] if isinstance(depth, int) else depth))
        steps: list[tuple[tuple[int, int], tuple[int, int]]] = []
        last_end = None
        for span, first, end in self.ranges(depth):
            is_chained = first == last_end and first not in ends
            above = steps[-1][1] if is_chained else grids[_stage(ends, first)]
            steps.append((above, span.grid_for(above)))
            last_end = end
        return steps


def _check_numbers(plan: Plan) -> None:
    for name in ("iterations", "neighborhood"):
        _check_count(name, getattr(plan, name), least=1)
    for name in ("projection", "k"):
        if getattr(plan, name) not in (None, "auto"):
            _check_count(name, getattr(plan, name), least=1)
    if plan.length is not None and not (_is_number(plan.length) and 0 <= plan.length <= 4):
        raise ExpediteError(f"length={plan.length!r} was asked; a power from 0 to 4 works")
    if plan.neighborhood % 2 == 0:
        raise ExpediteError(f"neighborhood={plan.neighborhood} was asked; it is an odd number")
    tau = plan.temperature
    if tau != "auto" and not (_is_number(tau) and tau > 0):
        raise ExpediteError(f"temperature={tau!r} was asked; a number above 0 or 'auto' works")


_CHOICES = {
    "basis": Basis,
    "space": Space,
    "log_mass": Literal[True, False],
    "reconstruction": Scope,
    "weights": Weighting,
    "delta": Literal[True, False],
    "reconstruct_at": Exit,
    "hard": Literal[True, False],
    "nearest_cells": Literal[True, False],
    "window_borders": Literal[True, False],
    "window_padding": Literal[True, False],
    "kept_shift": Literal[True, False],
    "position_tables": Tables,
}


def make_plan(
    alpha: int,
    clusters: int | tuple[int, int] | None = None,
    *,
    keep: float | None = None,
    beta: int | None = None,
    method: Method = "expedite",
    **settings: Any,
) -> Plan:
    """The plan of one span.

    Args:
        alpha: See `Span`, as for `clusters`, `keep` and `beta`.
        clusters: See `Span`.
        keep: See `Span`.
        beta: See `Span`.
        method: "paper" starts from the published operators in place of the defaults.
        settings: Any other field of `Plan`.

    Example:
        >>> make_plan(10, 28, method="paper", temperature=10.0).weights
        'softmax'
    """
    _check_choice("method", method, get_args(Method))
    known = [field.name for field in fields(Plan) if field.name != "spans"]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ExpediteError(f"the setting '{unknown[0]}' was asked; known are {', '.join(known)}")
    defaults = dict(_PAPER) if method == "paper" else {}
    if settings.get("weights") == "kriging":
        defaults.pop("k", None)  # which it has no use for
    return Plan((Span(alpha, clusters, keep, beta),), **{**defaults, **settings})


def _stage(ends: Sequence[int], block: int) -> int:
    return sum(block >= end for end in ends)


def _end(span: Span, limit: int, ends: Sequence[int]) -> int:
    """The block after a span's last, at most `limit`, in a model whose stages end at `ends`."""
    depth = ends[-1]
    if span.alpha >= depth:
        raise ExpediteError(
            f"alpha={span.alpha} was asked of {depth} blocks; alpha can be 0 to {depth - 1}"
        )
    stage = _stage(ends, span.alpha)
    past = ends[stage]
    end = min(limit, past) if span.beta is None else span.alpha + span.beta
    if end > past:
        one_stage = len(ends) == 1
        where = f"{depth} blocks" if one_stage else f"stage {stage + 1} that ends at block {past}"
        raise ExpediteError(
            f"beta={span.beta} after alpha={span.alpha} was asked of {where}; beta can be "
            f"at most {past - span.alpha}"
        )
    if end > limit or end == span.alpha:
        raise ExpediteError(
            f"a span from block {span.alpha} to {end} was asked with another that begins at "
            f"{limit}; spans must not overlap"
        )
    return end


def _pair(clusters: object) -> tuple[int, int]:
    pair = (clusters, clusters) if isinstance(clusters, int) else clusters
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_count, pair)):
        raise ExpediteError(
            f"clusters={clusters!r} was asked; a positive integer n for n×n, or a pair (rows, "
            "columns) of them, works"
        )
    return pair[0], pair[1]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ExpediteError(f"{name}={value!r} was asked; an integer of at least {least} works")


def _check_relocated(share: float | None, hard: bool) -> None:
    if share is not None and not (_is_number(share) and 0 <= share <= 0.5):
        raise ExpediteError(f"relocated={share!r} was asked; a share from 0 to 0.5 works")
    if share and not hard:
        raise ExpediteError(
            f"relocated={share} was asked with hard=False; clusters of one token need hard=True"
        )


def _check_calibration(plan: Plan) -> None:
    if not isinstance(plan.calibration, str):
        raise ExpediteError(f"calibration={plan.calibration!r} was asked; the name of a file works")
    if len(plan.spans) > 1:
        raise ExpediteError(
            f"calibration='{plan.calibration}' was asked of a plan of {len(plan.spans)} spans; one "
            "is for one span"
        )
    usual = (("basis", None), ("space", None), ("projection", "auto"))
    if others := [name for name, value in usual if getattr(plan, name) != value]:
        raise ExpediteError(
            f"calibration='{plan.calibration}' was asked together with {' and '.join(others)}; the "
            "calibration says on what distances are measured"
        )


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if not any(value is choice or value == choice for choice in choices):
        known = " and ".join(map(repr, choices))
        raise ExpediteError(f"{name}={value!r} was asked; {known} are known")
