"""Token Merging by bipartite soft matching (ToMe, arXiv 2210.09461), once at the start of a span.

Written from the paper. There tokens merge inside every block, between attention and MLP, and never
return; here they merge after a block, to as many as there are cells in the cluster grid, and return
as copies. `tome_blocks` is another form for dense prediction.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expedite.evaluate.comparators.attention import (
    Layers,
    find_layers,
    note_attention,
    noted_attention,
)
from expedite.evaluate.comparators.base import Measured, MergeSession, Merging
from expedite.evaluate.comparators.records import group_sums, grouped
from expedite.operators.assignment import HardAssignment
from expedite.patching.frame import Frame
from expedite.patching.host import Host


class AttentionSession(MergeSession):
    """A session of a method that decides by the attention of the block before a span."""

    keeps_cells: ClassVar[bool] = False

    def check(self, host: Host) -> None:
        super().check(host)
        if any(find_layers(block) is None for block in host.blocks):
            self.refuse(
                host,
                "attention has no layers that put out queries and keys",
                "expedite, paper and pool work",
            )
        if self.plan.spans[0].alpha == 0:
            self.refuse(
                host,
                "tokens have no attention to decide by before the first block",
                "alpha=1 works",
            )

    def add_hooks(self) -> None:
        for first in self.clusterings:
            note_attention(self, first - 1, self._layers(first - 1))

    def measured(self, frame: Frame, index: int, block: nn.Module, body: Tensor) -> Measured:
        attention = noted_attention(self, frame, index - 1, self._layers(index - 1))
        found = super().measured(frame, index, block, body)
        return found._replace(attention=attention, prefix=self.host.prefix_tokens)

    def _layers(self, index: int) -> Layers:
        layers = find_layers(self.host.blocks[index])
        assert layers is not None  # checked before
        return layers


class KeyMerging(Merging):
    """Merges the tokens whose keys, averaged over heads, are most alike."""

    def assign(
        self,
        measured: Measured,
        mass: Tensor,
        grid: tuple[int, int],
        clusters: tuple[int, int],
    ) -> HardAssignment:
        assert measured.attention is not None
        count = clusters[0] * clusters[1]
        keys = measured.attention.keys[:, measured.prefix :]  # (B, N, heads, D)
        group = soft_matching(keys.float().mean(2), mass, count, measured.prefix)
        return grouped(group, mass, mass, count)


class ToMeSession(AttentionSession):
    """Merges similar tokens."""

    title: ClassVar[str] = "ToMe"
    layer: ClassVar[type[Merging]] = KeyMerging


def soft_matching(metric: Tensor, mass: Tensor, count: int, prefix: int = 0) -> Tensor:
    """Match tokens until `count` are left.

    A round can at most halve the tokens, so several follow each other where fewer are asked.

    Args:
        metric: (B, N, D), compared by cosine.
        mass: (B, N) how much each token counts in means.
        count: How many are to be left.
        prefix: How many tokens come before these, see `match`.

    Returns:
        Into which of `count` each token goes, (B, N) int64; what is left keeps its order.

    Example:
        >>> metric = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]]])
        >>> soft_matching(metric, torch.ones(1, 4), 3)
        tensor([[0, 0, 1, 2]])
    """
    tokens = int(metric.shape[1])  # a tensor while torch.jit.trace runs
    group = torch.arange(tokens, device=metric.device).expand(metric.shape[:2])
    while tokens > count:
        fewer = min(tokens - count, tokens // 2)
        step = match(metric, fewer, prefix)
        tokens -= fewer
        metric = HardAssignment.of(step, mass[..., None], tokens).means(metric, metric[:, :tokens])
        mass = group_sums(mass, step, tokens)
        group = step.gather(1, group)
    return group


def match(metric: Tensor, fewer: int, prefix: int = 0) -> Tensor:
    """One bipartite matching of tokens (B, n, D): where each goes among the n - `fewer` left.

    Tokens go to two sets in turn; each of the first set draws an edge to the most similar of the
    second, and the tokens of the `fewer` most similar edges merge. The turns begin `prefix` tokens
    before: class tokens and the like take theirs, as published, though none of them merges.
    """
    batch, count = metric.shape[:2]
    first, second = prefix % 2, 1 - prefix % 2
    unit = F.normalize(metric, dim=-1)
    similarity, partner = (unit[:, first::2] @ unit[:, second::2].mT).max(-1)  # (B, about n/2)
    edge = similarity.topk(fewer, dim=1).indices  # (B, fewer)
    place = torch.arange(count, device=metric.device).expand(batch, -1)
    source, target = 2 * edge + first, 2 * partner.gather(1, edge) + second
    into = place.scatter(1, source, target)
    left = torch.ones_like(place).scatter(1, source, 0).cumsum(1) - 1
    return left.gather(1, into)
