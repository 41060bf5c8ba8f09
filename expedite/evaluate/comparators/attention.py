"""Queries and keys of a block as its attention made them, for methods that decide by them.

They are read where a block's linear layers put them out, so that they cost nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patching.frame import Frame
from expedite.patching.hooks import Hook
from expedite.patching.ours import after
from expedite.patching.session import Session

_FUSED = ("attn.qkv",)
_APART = (
    ("attention.q_proj", "attention.k_proj"),
    ("attn.q_proj", "attn.k_proj"),
    ("attention.attention.query", "attention.attention.key"),
)
_HEADS = ("num_heads", "heads", "num_attention_heads")


@dataclass(frozen=True)
class Attention:
    """Queries and keys of one block, (B, prefix + N, heads, D) each."""

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Layers:
    """The layers of a block that put out queries and keys, one where they are fused.

    `norms` act on queries and keys of each head after that, where attention has such norms.
    """

    linear: tuple[nn.Module, ...]
    heads: int
    norms: tuple[nn.Module, nn.Module]


@dataclass(eq=False)
class NoteProjection(Hook):
    """After a layer put out queries or keys, or both and values."""

    name: str

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if (frame := self.session.frame) is not None:
            frame.notes[self.name] = output


def find_layers(block: nn.Module) -> Layers | None:
    """The layers of a block that put out queries and keys; None where they are not layers."""
    modules = dict(block.named_modules())
    for names in (_FUSED, *_APART):
        if all(name in modules for name in names):
            parent = modules[names[0].rpartition(".")[0]]
            heads = next((getattr(parent, name) for name in _HEADS if hasattr(parent, name)), None)
            norms = (_child(parent, "q_norm"), _child(parent, "k_norm"))
            return heads and Layers(tuple(modules[name] for name in names), heads, norms)
    return None


def _child(parent: nn.Module, name: str) -> nn.Module:
    return dict(parent.named_children()).get(name, nn.Identity())


def note_attention(session: Session, index: int, layers: Layers) -> None:
    """Have the queries and keys of block `index` noted in every call."""
    for place, layer in enumerate(layers.linear):
        after(layer, NoteProjection(session, f"{index}.{place}"))


def noted_attention(session: Session, frame: Frame, index: int, layers: Layers) -> Attention:
    """What `note_attention` noted in a call.

    Raises:
        ExpediteError: The block computes them without its layers.
    """
    found = [frame.notes.pop(f"{index}.{place}", None) for place in range(len(layers.linear))]
    if any(output is None for output in found):
        raise ExpediteError(
            f"block {index} of the {session.host.family} makes queries and keys without calling "
            "its layers, where they were to be read; expedite, paper and pool work"
        )
    parts = found[0].chunk(3, -1) if len(found) == 1 else found
    queries, keys = (
        norm(part.reshape(*part.shape[:2], layers.heads, -1))
        for part, norm in zip(parts[:2], layers.norms, strict=True)
    )
    return Attention(queries, keys)
