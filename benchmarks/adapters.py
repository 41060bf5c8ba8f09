"""GFLOPs, peak memory and speed of ViT-Adapter and META, unpatched and patched, in one run.

    python -m benchmarks.adapters --size base --side 512

Random weights, which cost what trained ones do; under Semantic FPN, one image.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import expedite
from expedite.measure.flops import count_flops
from expedite.measure.memory import peak_memory
from expedite.measure.speed import time_pairs
from expedite.models.adapter_files import build_adapter
from expedite.plan import Plan, Span


def models(size: str, plan: Plan) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Each adapter's name, the model as it is, and one like it that is patched."""
    for name in (size, f"meta-{size}"):
        torch.manual_seed(0)
        plain = build_adapter(f"{name}-semantic-fpn")[0].eval()
        fast = build_adapter(f"{name}-semantic-fpn")[0].eval()
        fast.load_state_dict(plain.state_dict())
        yield name, plain, expedite.patch(fast, plan)


def measure(plain: nn.Module, fast: nn.Module, images: Tensor, seconds: float) -> list[list[str]]:
    """GFLOPs, memory, memory in training and speed, of both models."""
    calls = partial(plain, images), partial(fast, images)
    with torch.inference_mode():
        timing = time_pairs(*calls, images.device, seconds=seconds)
        peaks = [peak_memory(call, images.device) for call in calls]
    times = timing.first.median, timing.second.median
    return [
        [
            f"{count_flops(model, images).total:.1f}",
            f"{peak / 1e6:.0f}",
            f"{memory_of_training(model, images) / 1e6:.0f}",
            f"{1 / time:.2f}",
        ]
        for model, peak, time in zip((plain, fast), peaks, times, strict=True)
    ]


def memory_of_training(model: nn.Module, images: Tensor) -> int:
    """Peak bytes of a forward and a backward pass beyond weights and gradients."""

    def step() -> None:
        torch.autograd.backward(model(images).square().mean())

    step()  # after which gradients are there
    return peak_memory(step, images.device)


def main(
    size: Annotated[str, typer.Option(help="tiny, small, base or large.")] = "base",
    side: Annotated[int, typer.Option(help="Of the image in pixels.")] = 512,
    alpha: Annotated[int, typer.Option(help="Blocks at full resolution.")] = 4,
    keep: Annotated[float, typer.Option(help="Share of the tokens to keep.")] = 0.35,
    seconds: Annotated[float, typer.Option(help="To time each pair for.")] = 5.0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Print a line for each model, unpatched and patched."""
    images = torch.zeros(1, 3, side, side, device=device)
    table = Table("model", "GFLOPs", "memory, MB", "in training, MB", "images/s")
    for name, plain, fast in models(size, Plan((Span(alpha, keep=keep),))):
        rows = measure(plain.to(device), fast.to(device), images, seconds)
        for title, row in zip((name, f"{name}, patched"), rows, strict=True):
            table.add_row(title, *row)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
