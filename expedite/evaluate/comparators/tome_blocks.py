"""ToMe around every attention and every MLP, as published comparisons on dense prediction have it.

The tokens that enter either are merged and what leaves it is copied back, so the grid is full after
every block. Tokens are compared by what the norm before makes of them; their sizes weigh means, but
not attention.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.evaluate.comparators.base import RivalSession
from expedite.evaluate.comparators.tome import soft_matching
from expedite.operators.assignment import HardAssignment
from expedite.operators.clustering import full_precision
from expedite.patching.hooks import Hook
from expedite.patching.host import Host
from expedite.patching.ours import after, before
from expedite.plan import Span

_PARTS = (("attn", "attention"), ("mlp",))


class PartMerging(nn.Module):
    """Merges what enters a part of a block; it has no parameters."""

    def __init__(self, span: Span, prefix: int) -> None:
        super().__init__()
        self.span = span
        self.prefix = prefix

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, prefix + n, C) of (B, prefix + N, C), and into which each went, (B, N)."""
        rows, columns = self.span.grid_for(grid)
        if (rows, columns) == grid:
            return tokens, None
        body = tokens[:, self.prefix :]
        ones = torch.ones(body.shape[:2], device=body.device)
        with full_precision(body.device):
            group = soft_matching(body.float(), ones, rows * columns, self.prefix)
            assignment = HardAssignment.of(group, ones[..., None], rows * columns)
            merged = assignment.means(body, body[:, : rows * columns]).to(body.dtype)
        return torch.cat([tokens[:, : self.prefix], merged], 1), group


@dataclass(eq=False)
class MergeInput(Hook):
    """Before a part of a block runs."""

    session: "BlockMergingSession"
    index: int

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if (frame := self.session.frame) is None:
            return None
        assert frame.grid is not None  # `frame` hands out frames with a grid alone
        name = None if args else "hidden_states"
        tokens = kwargs[name] if name else args[0]
        others = [*args[1:], *(value for key, value in kwargs.items() if key != name)]
        if any(isinstance(value, (Tensor, tuple)) for value in others):
            raise ExpediteError(
                f"block {self.index} of the {self.session.host.family} hands its attention a mask "
                "or positions, which cover the full grid; expedite, paper and tome work"
            )
        merged, frame.notes["group"] = self.session.merging[str(self.index)](tokens, frame.grid)
        return (args, {**kwargs, name: merged}) if name else ((merged, *args[1:]), kwargs)


class CopyOutput(Hook):
    """After a part of a block ran."""

    session: "BlockMergingSession"

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        frame = self.session.frame
        group = None if frame is None else frame.notes.pop("group", None)
        if group is None:
            return None
        prefix = self.session.host.prefix_tokens
        if isinstance(output, tuple):  # tokens, then attention weights
            return (_copy_back(output[0], group, prefix), *output[1:])
        return _copy_back(output, group, prefix)


class BlockMergingSession(RivalSession):
    """Merges and copies back around both parts of every block of the spans."""

    title: ClassVar[str] = "ToMe around attention and MLP"
    keeps_cells: ClassVar[bool] = False

    def check(self, host: Host) -> None:
        super().check(host)
        if self.plan.log_mass:
            raise ExpediteError(
                f"log_mass=True was asked with {self.title}, where a block's mask is made before "
                "its tokens are merged; log_mass=False works"
            )
        if any(len(_parts(block)) < len(_PARTS) for block in host.blocks):
            self.refuse(
                host,
                "blocks have no attention and MLP by the usual names",
                "expedite, paper and pool work",
            )

    def make_clusterings(self) -> dict[int, nn.Module]:
        prefix = self.host.prefix_tokens
        self.merging = {
            str(index): PartMerging(span, prefix)
            for span, first, end in self.plan.ranges(self.host.depth)
            for index in range(first, end)
        }
        return {}

    @property
    def operators(self) -> list[nn.Module]:
        return list(self.merging.values())

    def add_hooks(self) -> None:
        for index in map(int, self.merging):
            for part in _parts(self.host.blocks[index]):
                before(part, MergeInput(self, index))
                after(part, CopyOutput(self))


def _parts(block: nn.Module) -> list[nn.Module]:
    children = dict(block.named_children())
    return [children[name] for names in _PARTS for name in names if name in children]


def _copy_back(tokens: Tensor, group: Tensor, prefix: int) -> Tensor:
    index = group[..., None].expand(-1, -1, tokens.shape[2])
    return torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], 1)
