"""What a plan does to one image inside a model: where tokens go, and how well the grid comes back.

Seen by hooks on a copy that shares the model's weights: nothing stays on the model, and records
belong to the one call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expedite.measure.speed import twin
from expedite.operators.clustering import Clustering, labels
from expedite.operators.windows import WindowClustering, window_labels
from expedite.patching import patch, unpatch
from expedite.patching.describing import the_session
from expedite.patching.hooks import Hook
from expedite.patching.ours import after, before
from expedite.patching.session import Session
from expedite.plan import Plan

Size = tuple[int, int]
Record = Clustering | WindowClustering


@dataclass(frozen=True)
class SpanView:
    """One span of a plan on one image.

    Args:
        first: The number of its first block, from 1.
        last: The number of its last block.
        grid: The grid of tokens (H, W) in its stage.
        clusters: The cluster grid (h, w); None where a method has none.
        labels: The cluster that each token leans to, by its index, (H, W); None where there are no
            clusters. Clusters of clusters are followed down to the tokens.
        error: How far each token is from the unpatched model's behind the span, over the length of
            the latter, (H, W) float32; None where the grids differ, as in a smaller image.
    """

    first: int
    last: int
    grid: Size
    clusters: Size | None
    labels: NDArray[np.int64] | None
    error: NDArray[np.float32] | None


def observe(model: nn.Module, plan: Plan, pixels: Tensor) -> list[SpanView]:
    """Run a plan on one image, and look into each of its spans.

    Behind a span the full grid is read, as any reader of a block's output gets it.

    Args:
        model: Patched or not; it stays as it is.
        plan: What to look at.
        pixels: (1, 3, h, w), normalised.

    Raises:
        ExpediteError: The plan cannot be carried out.

    Example:
        >>> import timm
        >>> from expedite.plan import make_plan
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> (span,) = observe(model, make_plan(4, 7), torch.randn(1, 3, 224, 224))
        >>> span.first, span.last, span.grid, span.clusters, span.labels.shape
        (5, 12, (14, 14), (7, 7), (14, 14))
    """
    copy = patch(twin(model), plan)
    session = the_session(copy)
    spans = [_Span(session, first, end) for _, first, end in plan.ranges(session.host.depth)]
    with _reading(spans), torch.inference_mode():
        copy(pixels)
        after = [span.take() for span in spans]
        unpatch(copy)
        copy(pixels)
        return [span.view(tokens) for span, tokens in zip(spans, after, strict=True)]


@dataclass
class _Span:
    """What hooks keep of a span while the copy runs."""

    session: Session
    first: int
    end: int
    grid: Size = (0, 0)
    records: Sequence[Record] = field(default=())
    tokens: Tensor | None = None  # (N, C) float32, behind the span

    def read(self, block: nn.Module, args: Any, output: Any) -> None:
        """Keep the full grid behind the span."""
        tokens = output[0] if isinstance(output, tuple) else output
        if tokens.dim() == 3:
            tokens = tokens[:, self.session.host.prefix_tokens :]
        self.tokens = tokens[0].reshape(-1, tokens.shape[-1]).float()

    def take(self) -> Tensor | None:
        """What was read, which is then forgotten."""
        tokens, self.tokens = self.tokens, None
        return tokens

    def view(self, after: Tensor | None) -> SpanView:
        """The span, where `after` was read of the patched model and `tokens` of the other."""
        found = _labels(self.records)
        return SpanView(
            self.first + 1,
            self.end,
            self.grid,
            self.records[-1].clusters if self.records else None,
            None if found is None else found.reshape(self.grid).cpu().numpy(),
            _error(self.tokens, after, self.grid),
        )


@dataclass(eq=False)
class _NoteGrid(Hook):
    """Before the first block of a span runs."""

    span: _Span

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        frame, host = self.session.frame, self.session.host
        if frame is not None and frame.grid is not None:
            self.span.grid = host.grids(frame.grid)[host.stage_of(self.span.first)]


@dataclass(eq=False)
class _NoteRecords(Hook):
    """After the layer that makes clusters where a span begins, which come on top of others."""

    span: _Span

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if (frame := self.session.frame) is not None:
            self.span.records = [*(level.record for level in frame.levels), output[1]]


@contextmanager
def _reading(spans: Sequence[_Span]) -> Iterator[None]:
    handles = []
    for span in spans:
        blocks = span.session.host.blocks
        before(blocks[span.first], _NoteGrid(span.session, span))
        if span.first in span.session.clusterings:
            after(span.session.clusterings[span.first], _NoteRecords(span.session, span))
        handles.append(blocks[span.end - 1].register_forward_hook(span.read))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _labels(records: Sequence[Record]) -> Tensor | None:
    """The last record's cluster of each token of the first record's grid, (N,)."""
    found = None
    for record in records:
        each = window_labels(record) if isinstance(record, WindowClustering) else labels(record)
        found = each[0] if found is None else each[0][found]
    return found


def _error(own: Tensor | None, after: Tensor | None, grid: Size) -> NDArray[np.float32] | None:
    if own is None or after is None or own.shape != after.shape:
        return None
    length = own.norm(dim=1).clamp_min(torch.finfo(own.dtype).tiny)
    error: NDArray[np.float32] = ((after - own).norm(dim=1) / length).reshape(grid).cpu().numpy()
    return error
