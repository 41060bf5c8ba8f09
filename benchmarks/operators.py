"""Clustering and reconstruction, as plans have them: time against one block, growth, memory, parts.

    python -m benchmarks.operators
    OMP_NUM_THREADS=1 python -m benchmarks.operators
    python -m benchmarks.operators --parts

Time is that of descending and returning over that of one block on the same tokens, in pairs. Growth
is the time at four times the tokens and clusters over the time at these, beside that of a mere copy
of the tokens, which grows by more than four where they leave the caches. Memory is the peak beyond
the tokens themselves, over the bytes of the tokens in float32.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from expedite.measure.memory import peak_memory
from expedite.measure.speed import PairedTiming, time_pairs
from expedite.operators.clustering import cluster
from expedite.operators.reconstruction import reconstruct
from expedite.operators.relocation import SHARE
from expedite.plan import Plan, Span

Size = tuple[int, int]

# Grid, cluster grid, width, heads: the small Segmenter, DINOv2-S at 518, Segmenter ViT-L at 640,
# DPT at 352×1216, ViT-B at 1024, ViT-B with patches of 8 at 1024.
SIZES = [
    ((28, 28), (14, 14), 192, 3),
    ((37, 37), (18, 18), 384, 6),
    ((40, 40), (28, 28), 1024, 16),
    ((22, 76), (15, 52), 768, 12),
    ((64, 64), (32, 32), 768, 12),
    ((128, 128), (64, 64), 768, 12),
]


def descend_and_return(tokens: Tensor, grid: Size, clusters: Size) -> None:
    """What a span adds to the blocks that it makes cheaper."""
    plan = Plan((Span(0, clusters),)).settled(in_windows=False)
    named = ("iterations", "projection", "basis", "hard", "sharpness", "length")
    settings: dict[str, Any] = {name: getattr(plan, name) for name in named}
    centroids, record = cluster(tokens, grid, clusters, relocated=SHARE, **settings)
    reconstruct(centroids, record)


def tokens_of(grid: Size, width: int) -> Tensor:
    """Random tokens (1, N, C)."""
    return torch.randn(1, grid[0] * grid[1], width)


def against_a_block(
    grid: Size, clusters: Size, width: int, heads: int, seconds: float
) -> PairedTiming:
    """Pairs of one block on all tokens, and of the operators."""
    tokens = tokens_of(grid, width)
    block = Block(width, heads).eval()
    operators = partial(descend_and_return, tokens, grid, clusters)
    return time_pairs(lambda: block(tokens), operators, tokens.device, seconds=seconds)


def growth(grid: Size, clusters: Size, width: int, seconds: float) -> float:
    """Time at four times the tokens and clusters over time at these."""

    def call(factor: int) -> Callable[[], None]:
        size, cells = ((factor * rows, factor * columns) for rows, columns in (grid, clusters))
        return partial(descend_and_return, tokens_of(size, width), size, cells)

    return ratio(call(2), call(1), seconds)


def growth_of_a_copy(grid: Size, width: int, seconds: float) -> float:
    """Time to copy four times the tokens over time to copy these."""
    many, few = (tokens_of((factor * grid[0], factor * grid[1]), width) for factor in (2, 1))
    return ratio(many.clone, few.clone, seconds)


def ratio(first: Callable[[], object], second: Callable[[], object], seconds: float) -> float:
    """Time of the first call over that of the second, in pairs."""
    return time_pairs(first, second, torch.device("cpu"), seconds=seconds).speedup.median


def extra_memory(grid: Size, clusters: Size, width: int) -> float:
    """Peak bytes beyond the tokens over the bytes of the tokens."""
    tokens = tokens_of(grid, width)
    peak = peak_memory(partial(descend_and_return, tokens, grid, clusters), tokens.device)
    return peak / (tokens.numel() * tokens.element_size())


def rows(seconds: float) -> Iterator[list[str]]:
    """One line for each size."""
    for grid, clusters, width, heads in SIZES:
        timing = against_a_block(grid, clusters, width, heads, seconds)
        ratios = (timing.speedup.median, timing.speedup.upper, timing.speedup.lower)
        middle, low, high = (1 / ratio for ratio in ratios)
        yield [
            "×".join(map(str, grid)),
            "×".join(map(str, clusters)),
            str(width),
            f"{1000 * timing.first.median:.1f}",
            f"{1000 * timing.second.median:.1f}",
            f"{middle:.3f} ({low:.3f} to {high:.3f})",
            f"{growth(grid, clusters, width, seconds):.1f}",
            f"{growth_of_a_copy(grid, width, seconds):.1f}",
            f"{extra_memory(grid, clusters, width):.1f}",
        ]


def parts(grid: Size, clusters: Size, width: int) -> str:
    """Which of PyTorch's operations take the time, by its profiler."""
    call = partial(descend_and_return, tokens_of(grid, width), grid, clusters)
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(10):
            call()
    return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def main(
    seconds: Annotated[float, typer.Option(help="To time each pair for.")] = 5.0,
    only_parts: Annotated[
        bool, typer.Option("--parts", help="Profile the second size instead.")
    ] = False,
) -> None:
    """Print one line for each size, or a profile."""
    console = Console(width=120)
    with torch.inference_mode():
        if only_parts:
            console.print(parts(*SIZES[1][:3]), markup=False, soft_wrap=True)
            return
        table = Table(
            "tokens", "clusters", "width", "block, ms", "operators, ms", "operators / block",
            "growth at 4 N", "of a copy", "memory / tokens",
        )  # fmt: skip
        for row in rows(seconds):
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
