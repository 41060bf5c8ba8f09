"""The image tower of open_clip, laid out as there, for tests; its arithmetic is PyTorch's own."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from tests.hosts import randomized


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()
        layers = [("c_fc", nn.Linear(width, 64)), ("gelu", nn.GELU())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(64, width))]))

    def forward(self, q_x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(q_x)
        x = q_x + self.ls_1(self.attn(x, x, x, need_weights=False, attn_mask=attn_mask)[0])
        output: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return output


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.batch_first = True
        self.resblocks = nn.ModuleList(Block(width) for _ in range(4))

    def outputs(self, x: Tensor) -> list[Tensor]:
        found = []
        for block in self.resblocks:
            x = block(x, attn_mask=None)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)[-1]


class VisionTransformer(nn.Module):
    def __init__(
        self, pool_type: str = "tok", output_tokens: bool = False, final_ln_after_pool: bool = False
    ) -> None:
        super().__init__()
        self.pool_type, self.output_tokens = pool_type, output_tokens
        self.final_ln_after_pool, self.grid_size, self.attn_pool = final_ln_after_pool, (8, 8), None
        self.conv1 = nn.Conv2d(3, 32, 4, stride=4, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(32))
        self.positional_embedding = nn.Parameter(torch.zeros(65, 32))
        self.ln_pre, self.ln_post = nn.LayerNorm(32), nn.LayerNorm(32)
        self.transformer = Transformer(32)
        self.proj = nn.Parameter(torch.zeros(32, 16))

    def embedded(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        tokens: Tensor = self.ln_pre(x + self.positional_embedding)
        return tokens

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x if self.final_ln_after_pool else self.ln_post(x)
        pooled = x[:, 0] if self.pool_type == "tok" else x[:, 1:].mean(1)
        pooled = self.ln_post(pooled) if self.final_ln_after_pool else pooled
        return pooled @ self.proj, x[:, 1:]

    def forward_intermediates(
        self, x: Tensor, indices: Any = None, intermediates_only: bool = False
    ) -> dict[str, Any]:
        outputs = self.transformer.outputs(self.embedded(x))
        chosen = range(4) if indices is None else indices
        chosen = range(4 - chosen, 4) if isinstance(chosen, int) else chosen
        taken = [outputs[index][:, 1:].mT.reshape(len(x), -1, 8, 8) for index in chosen]
        found: dict[str, Any] = {"image_intermediates": taken}
        return found if intermediates_only else {**found, "image": self.pooled(outputs[-1])[0]}

    def forward(self, x: Tensor) -> Any:
        pooled, tokens = self.pooled(self.transformer(self.embedded(x)))
        return (pooled, tokens) if self.output_tokens else pooled


def open_clip_tower(**changes: Any) -> VisionTransformer:
    """Four blocks of width 32 on 8×8 tokens of 4 pixels."""
    torch.manual_seed(0)
    return randomized(VisionTransformer(**changes))
