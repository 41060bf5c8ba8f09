"""RF-DETR's backbone in the layout of the package rfdetr, small and written anew."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, PATCH, WINDOWS, REGISTERS = 32, 2, 4, 2, 1


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads = HEADS
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dropout = nn.Dropout(0.0)

    def forward(self, tokens: Tensor, output_attentions: bool = False) -> tuple[Tensor, None]:
        q, k, v = (
            made.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for made in (self.query(tokens), self.key(tokens), self.value(tokens))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), None


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.ModuleDict({"attention": SelfAttention()})
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(self, tokens: Tensor, output_attentions: bool, everywhere: bool) -> tuple[Tensor]:
        normed = self.norm1(tokens)
        if everywhere:
            normed = normed.reshape(-1, WINDOWS**2 * tokens.shape[1], WIDTH)
        attended, _ = self.attention["attention"](normed, output_attentions)
        tokens = tokens + self.dense(attended).reshape(tokens.shape)
        return (tokens + self.mlp(self.norm2(tokens)),)


class WindowedDinov2WithRegistersBackbone(nn.Module):
    """Four blocks of width 32 on 2×2 windows of 4×4 tokens of 4 pixels, at 32×32."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"image_size": 32, "patch_size": PATCH, "num_windows": WINDOWS}
        self.config = SimpleNamespace(
            **sizes, num_register_tokens=REGISTERS, output_hidden_states=False
        )
        self.stage_names = ["stem", "stage1", "stage2", "stage3", "stage4"]
        self.out_features = ["stage2", "stage4"]
        patches = nn.ModuleDict({"projection": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.embeddings = nn.ModuleDict({"patch_embeddings": patches})
        self.beside = nn.Parameter(torch.zeros(1, 1 + REGISTERS, WIDTH))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(4))})
        self.layernorm = nn.LayerNorm(WIDTH)

    def forward(self, images: Tensor, output_hidden_states: bool = False) -> Any:
        tokens = self._windows(self.get_submodule("embeddings.patch_embeddings.projection")(images))
        tokens = torch.cat([self.beside.expand(len(tokens), -1, -1), tokens], 1)
        states = [tokens]
        for index, layer in enumerate(self.get_submodule("encoder.layer").children()):
            states.append(layer(states[-1], False, index % 2 == 1)[0])
        read = [states[self.stage_names.index(name)] for name in self.out_features]
        maps = tuple(self.layernorm(state)[:, 1 + REGISTERS :] for state in read)
        return (maps, tuple(states)) if output_hidden_states else maps

    def _windows(self, maps: Tensor) -> Tensor:
        """Tokens (B·4, N/4, C) of a map (B, C, H, W), cut in two along each side."""
        batch, width, height, _ = maps.shape
        cut = maps.reshape(batch, width, WINDOWS, height // WINDOWS, WINDOWS, -1)
        return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch * WINDOWS**2, -1, width)
