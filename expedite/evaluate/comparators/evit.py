"""EViT (arXiv 2202.07800): tokens that the class token attends to stay, the others become one.

Written from the paper. There tokens are chosen between attention and MLP of three blocks of a
model that is trained so; here after a block, with no training, and several spans make several
choices. For dense prediction, what becomes of the one token returns to all that went into it.
"""

from typing import ClassVar

import torch
from torch import Tensor

from expedite.evaluate.comparators.attention import Attention
from expedite.evaluate.comparators.base import Measured, Merging
from expedite.evaluate.comparators.records import grouped
from expedite.evaluate.comparators.tome import AttentionSession
from expedite.operators.assignment import HardAssignment
from expedite.patching.host import Host


class TokenSelection(Merging):
    """Keeps all but one of the tokens that are asked, and fuses the others into that one."""

    def assign(
        self,
        measured: Measured,
        mass: Tensor,
        grid: tuple[int, int],
        clusters: tuple[int, int],
    ) -> HardAssignment:
        assert measured.attention is not None
        last = clusters[0] * clusters[1] - 1
        attentiveness = class_attention(measured.attention)[:, measured.prefix :]  # (B, N)
        kept = attentiveness.topk(last, dim=1).indices
        stays = torch.zeros_like(attentiveness, dtype=torch.long).scatter(1, kept, 1)
        labels = torch.where(stays > 0, stays.cumsum(1) - 1, last)
        return grouped(labels, torch.where(stays > 0, 1.0, attentiveness), mass, last + 1)


class EViTSession(AttentionSession):
    """Keeps the tokens that the class token attends to most."""

    title: ClassVar[str] = "EViT"
    layer: ClassVar[type[Merging]] = TokenSelection

    def check(self, host: Host) -> None:
        super().check(host)
        names = {name.rpartition(".")[2] for name, _ in host.backbone.named_parameters()}
        if host.prefix_tokens == 0 or not names & {"cls_token", "class_token"}:
            self.refuse(
                host,
                "tokens begin with no class token whose attention could tell which to keep",
                "expedite, paper, pool and tome work",
            )


def class_attention(attention: Attention) -> Tensor:
    """How much the first token attends to each, the mean over heads, (B, prefix + N).

    Example:
        >>> class_attention(Attention(torch.zeros(2, 5, 3, 8), torch.randn(2, 5, 3, 8)))[0]
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """
    first, keys = attention.queries[:, 0].float(), attention.keys.float()
    scores = (keys.transpose(1, 2) @ first[..., None]).squeeze(-1)  # (B, heads, prefix + N)
    shares: Tensor = (scores / first.shape[-1] ** 0.5).softmax(-1)
    return shares.mean(1)
