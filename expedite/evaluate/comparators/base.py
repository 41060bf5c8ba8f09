"""What methods that merge tokens have in common: sessions, layers and how the full grid returns."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.evaluate.comparators.attention import Attention
from expedite.evaluate.comparators.records import Copying, Measuring, Upsampling, record_of
from expedite.evaluate.comparators.ways import Return
from expedite.operators.assignment import Assignment
from expedite.operators.clustering import Clustering, check_shapes, full_precision, unmerged
from expedite.operators.reconstruction import TokenReconstruction
from expedite.operators.windows import WindowTokenReconstruction
from expedite.patching.frame import Frame
from expedite.patching.host import Host
from expedite.patching.session import Session
from expedite.plan import Plan, Span


class Measured(NamedTuple):
    """What decides which tokens merge, and in what distances to them are measured."""

    features: Tensor | None = None  # (B, N, D)
    attention: Attention | None = None  # of the block before, prefix tokens included
    prefix: int = 0


class RivalSession(Session):
    """A session whose tokens become fewer in another way, or return in another way.

    Attributes:
        title: What the method is called in messages.
        keeps_cells: Whether what tokens are merged into stands on a regular grid.
    """

    title: ClassVar[str]
    keeps_cells: ClassVar[bool] = True

    def __init__(self, host: Host, plan: Plan, returns: Return) -> None:
        self.plan, self.returns = plan, returns
        self.check(host)
        super().__init__(host, plan)

    def check(self, host: Host) -> None:
        """Refuse a host that the method cannot serve."""
        if host.window is not None:
            self.refuse(host, "blocks attend in windows", "expedite and paper work")
        if host.views is not None:
            self.refuse(host, "blocks attend to several views", "expedite and paper work")
        if host.bias is not None and not self.keeps_cells:
            self.refuse(
                host,
                "blocks add biases between regular cells, where merged tokens do not stand",
                "expedite, paper and pool work",
            )

    def refuse(self, host: Host, why: str, remedy: str) -> None:
        """Say in one sentence that the method cannot serve a host."""
        raise ExpediteError(f"{self.title} was asked of a {host.family}, whose {why}; {remedy}")

    def make_reconstruction(self) -> TokenReconstruction | WindowTokenReconstruction:
        layer = super().make_reconstruction()
        if self.returns != "weights":
            layer.weigh = Upsampling() if self.returns == "bilinear" else Copying()
        return layer


class UpsamplingSession(RivalSession):
    """Clusters as ever; the full grid returns bilinearly (Table 4 of arXiv 2210.01035)."""

    title: ClassVar[str] = "bilinear upsampling"


class MergeSession(RivalSession):
    """A session whose spans begin with a layer of another kind."""

    layer: ClassVar[type["Merging"]]

    def make_clusterings(self) -> dict[int, nn.Module]:
        measuring = Measuring.of(self.settled) if self.returns == "weights" else None
        spans = self.plan.ranges(self.host.depth)
        return {first: self.layer(span, measuring) for span, first, _ in spans}

    def measured(self, frame: Frame, index: int, block: nn.Module, body: Tensor) -> Measured:
        if self.returns != "weights":
            return Measured()
        return Measured(super().measured(frame, index, block, body))


class Merging(nn.Module):
    """Merges the tokens of a grid into as many as a span's cluster grid has; no parameters.

    What it takes and returns is as `clustering.TokenClustering` has it.
    """

    def __init__(self, span: Span, measuring: Measuring | None = None) -> None:
        super().__init__()
        self.span = span
        self.measuring = measuring

    def forward(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        measured: Measured,
        mass: Tensor | None = None,
    ) -> tuple[Tensor, Clustering]:
        clusters = self.span.grid_for(grid)
        check_shapes(tokens, grid, clusters)
        if clusters == grid:
            return tokens, unmerged(tokens, grid, mass=mass)
        with full_precision(tokens.device):
            ones = torch.ones(tokens.shape[:2], device=tokens.device)
            counts = ones if mass is None else mass.float()
            assignment = self.assign(measured, counts, grid, clusters)
            record = record_of(tokens, assignment, grid, clusters)
            if self.measuring is not None:
                record = self.measuring.complete(record, measured.features)
        return record.centroids, record

    @abstractmethod
    def assign(
        self,
        measured: Measured,
        mass: Tensor,
        grid: tuple[int, int],
        clusters: tuple[int, int],
    ) -> Assignment:
        """Which tokens go together, of which each stands for `mass` (B, N)."""
