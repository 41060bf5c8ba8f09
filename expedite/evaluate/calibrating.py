"""Calibrating a model in closed form: ridge regressions on what its blocks make of some images.

No gradients, no labels, no weights changed. Two things are found for plans that begin at one α:

- the metric, directions of the tokens before block α+1 in which neighbours differ by what that
  block makes them differ by (ridge regression of differences after it on differences before it;
  of what it predicts, the principal directions);
- the drift, by how much each block then turns clusters otherwise than it turns their tokens on
  average, as a function of how widely a cluster is spread (ridge regression, block after block,
  with what was found for the blocks before in place).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.measure.speed import twin
from expedite.operators.clustering import Clustering, full_precision, pool
from expedite.operators.drift import SPREADS, spreads
from expedite.patching import patched, unpatch
from expedite.patching.calibration import Calibration, check_map, signature
from expedite.patching.describing import grid_of, the_host
from expedite.patching.frame import Frame
from expedite.patching.host import Host
from expedite.patching.session import Session
from expedite.plan import Plan, Span

DIRECTIONS = 64
_KEEP = 0.25  # of the tokens, while drift is measured; it holds from 13 to 50 %
_REACH = 3  # cells between the tokens that are compared
_FEWEST = 4  # images: fewer say more of themselves than of the model
_RIDGE = 1e-2  # of the mean variance of what is regressed on


def calibrate(
    model: nn.Module, images: Tensor | Sequence[Tensor], *, alpha: int, directions: int = DIRECTIONS
) -> Calibration:
    """Find in which directions tokens are alike for what follows, without training.

    Args:
        model: A trained model of a known family whose tokens are one map, not patched; it stays as
            it is.
        images: (B, 3, H, W) as the model takes them, or several (3, H, W) of one size; two dozen
            of what it is to be used on do. All of them run at once.
        alpha: Of the plans that it is for.
        directions: On how many numbers distances are measured; at most as many as there are
            channels.

    Returns:
        What to `save` to a file, which `expedite.patch(model, ..., calibration=FILE)` names.

    Raises:
        ExpediteError: The model is unknown, works in windows, or has no block after `alpha`; images
            are too few, of several sizes, or of one colour each.

    Example:
        >>> import timm, torch, expedite
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> expedite.calibrate(model, torch.randn(4, 3, 224, 224), alpha=4).metric.shape
        torch.Size([192, 64])
    """
    if directions < 1:
        raise ExpediteError(f"directions={directions} was asked; an integer of at least 1 works")
    batch = _batch_of(images)
    copy = unpatch(twin(model)).eval()  # dropout would be taken for what blocks do
    host = the_host(copy)[1]
    check_map(host)
    Plan((Span(alpha, keep=_KEEP),)).ranges(host.depth)  # refuses an α that is none
    with torch.inference_mode():
        notes = _Notes(host, alpha)
        with _noting(notes, host, alpha):
            copy(batch)
        metric = _metric_of(notes, grid_of(copy, batch[:1]), directions)
        made = Calibration(alpha, metric, _no_drift(host, alpha, metric), signature(host))
        with patched(copy, _fitting(made, notes.after)):
            copy(batch)
    return made


def _batch_of(images: Tensor | Sequence[Tensor]) -> Tensor:
    several = isinstance(images, Tensor) and images.dim() == 4
    sizes = {tuple(image.shape) for image in images}
    if len(images) < _FEWEST or len(sizes) > 1 or not (several or len(next(iter(sizes))) == 3):
        found = " and ".join(sorted(map(str, sizes))) or "no shape"
        raise ExpediteError(
            f"a calibration was asked from {len(images)} images of {found}; at least {_FEWEST} "
            "(3, H, W) of one size are due"
        )
    batch = images if isinstance(images, Tensor) else torch.stack(list(images))
    if not bool(batch.isfinite().all()):
        raise ExpediteError(
            "a calibration was asked from images with values that are no numbers (nan or inf); "
            "finite ones work"
        )
    if bool((batch.flatten(2) == batch.flatten(2)[..., :1]).all()):
        raise ExpediteError(
            "a calibration was asked from images of one colour each, which say nothing of how "
            "tokens differ; photographs do"
        )
    return batch


@dataclass
class _Notes:
    """The grid's tokens (B, N, C) before block α+1 and after each from there on, unpatched."""

    host: Host
    alpha: int

    def __post_init__(self) -> None:
        self.before: Tensor | None = None
        self.after: list[Tensor] = []

    def note(self, index: int) -> Callable[..., None]:
        """The hook of a block."""

        def hook(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if index == self.alpha:
                tokens = args[0] if args else next(iter(kwargs.values()))
                self.before = self._body(tokens, index)
            self.after.append(self._body(output, index))

        return hook

    def _body(self, tokens: Any, index: int) -> Tensor:
        found: Tensor = tokens[0] if isinstance(tokens, tuple) else tokens
        before, behind = self.host.beside(index)
        return found[:, before : found.shape[1] - behind]


@contextmanager
def _noting(notes: _Notes, host: Host, alpha: int) -> Iterator[None]:
    handles = [
        block.register_forward_hook(notes.note(index), with_kwargs=True)
        for index, block in enumerate(host.blocks)
        if index >= alpha
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _metric_of(notes: _Notes, grid: tuple[int, int], directions: int) -> Tensor:
    """(C, directions)."""
    assert notes.before is not None
    width = notes.before.shape[2]
    squares, products = torch.zeros(2, width, width, dtype=torch.float64)
    for before, after in zip(notes.before, notes.after[0], strict=True):
        x, y = (_differences(tokens, grid) for tokens in (before, after))
        squares += (x.mT @ x).double().cpu()
        products += (x.mT @ y).double().cpu()
    regression = _ridge(squares, products)
    _, turned = torch.linalg.eigh(regression.mT @ squares @ regression)
    metric = regression @ turned.flip(1)[:, :directions]
    found: Tensor = metric / metric.square().mean().sqrt()
    return found.float().to(notes.before.device)


def _differences(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Between tokens (N, C) that are up to so many cells apart in a row or a column."""
    normed = F.layer_norm(tokens.float(), tokens.shape[-1:]).view(*grid, -1)
    apart = range(1, min(_REACH, *(side - 1 for side in grid)) + 1)
    across = [(normed[:, d:] - normed[:, :-d]).flatten(0, 1) for d in apart]
    down = [(normed[d:] - normed[:-d]).flatten(0, 1) for d in apart]
    return torch.cat(across + down)


def _ridge(squares: Tensor, products: Tensor) -> Tensor:
    """Solve (XᵀX + λI) B = XᵀY; a column of X without variance gets nothing."""
    size = len(squares)
    unit = squares.diagonal().mean().clamp_min(torch.finfo(squares.dtype).tiny)
    found: Tensor = torch.linalg.solve(
        squares + _RIDGE * unit * torch.eye(size, dtype=squares.dtype), products
    )
    return found


def _no_drift(host: Host, alpha: int, metric: Tensor) -> Tensor:
    return metric.new_zeros(len(host.blocks) - alpha, SPREADS, len(metric))


@dataclass(frozen=True)
class _Fitting(Plan):
    """Finds the drift of each block when it has run, and goes on with it."""

    made: Any = None  # a Calibration
    truth: Any = None  # tokens (B, N, C) after each block from α on

    def session(self, host: Host) -> Session:
        return _FittingSession(host, self)


def _fitting(made: Calibration, truth: Sequence[Tensor]) -> _Fitting:
    """With the distances that plans have when they name the calibration."""
    spans = (Span(made.alpha, keep=_KEEP),)
    return _Fitting(
        spans, basis="hashed", space="normalized", projection=None, made=made, truth=truth
    )


class _FittingSession(Session):
    plan: _Fitting

    def find_calibration(self) -> Calibration:
        made: Calibration = self.plan.made
        return made

    def put_right(self, frame: Frame, index: int, tokens: Tensor) -> Tensor:
        record = frame.levels[-1].record
        assert isinstance(record, Clustering)
        made, place = self.plan.made, index - self.plan.made.alpha
        before, behind = self.host.beside(index)
        clusters = tokens[:, before : tokens.shape[1] - behind]
        with full_precision(tokens.device):
            wanted = pool(self.plan.truth[place].float() - record.tokens.float(), record)
            missing = wanted - (clusters.float() - record.centroids.float())
            made.drift[place] = _drift_of(record, missing)
        return super().put_right(frame, index, tokens)


def _drift_of(record: Clustering, missing: Tensor) -> Tensor:
    """(3, C): what is missing of each cluster's change (B, h·w, C), by its spread."""
    x, y, mass = (
        spreads(record).flatten(0, 1),
        missing.flatten(0, 1),
        record.mass.flatten()[:, None],
    )
    # Spreads differ in size by decades, and so would what the ridge takes off.
    unit = (mass * x.square()).sum(0).sqrt().clamp_min(1e-30)
    x = x / unit
    squares, products = x.mT @ (mass * x), x.mT @ (mass * y)
    return (_ridge(squares.double().cpu(), products.double().cpu()) / unit[:, None].cpu()).float()
