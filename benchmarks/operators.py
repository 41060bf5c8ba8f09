"""Time clustering and reconstruction, as plans have them, against one block on the same tokens.

python benchmarks/operators.py
OMP_NUM_THREADS=1 python benchmarks/operators.py
"""

import torch
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import Block

from expedite.clustering import cluster
from expedite.evaluate.speed import PairedTiming, time_pairs
from expedite.plan import Plan, Span
from expedite.reconstruction import reconstruct
from expedite.relocation import SHARE

# Grid, cluster grid, width, heads: Segmenter ViT-L at 640, DPT at 352×1216, ViT-B at 1024.
SIZES = [
    ((28, 28), (14, 14), 192, 3),
    ((40, 40), (28, 28), 1024, 16),
    ((22, 76), (15, 52), 768, 12),
    ((64, 64), (32, 32), 768, 12),
]


def compare(
    grid: tuple[int, int], clusters: tuple[int, int], width: int, heads: int
) -> PairedTiming:
    """Pairs of one block on all tokens, and of descending to clusters and returning."""
    tokens = torch.randn(1, grid[0] * grid[1], width)
    block = Block(width, heads).eval()
    plan = Plan((Span(0, clusters),))

    def descend_and_return() -> None:
        centroids, record = cluster(
            tokens, grid, clusters, projection=plan.projection, hard=plan.hard, relocated=SHARE
        )
        reconstruct(centroids, record)

    return time_pairs(lambda: block(tokens), descend_and_return, tokens.device, seconds=5)


def main() -> None:
    """Print one line for each size."""
    table = Table(
        "tokens", "clusters", "width", "a block, ms", "operators, ms", "operators / block"
    )
    with torch.inference_mode():
        for grid, clusters, width, heads in SIZES:
            timing = compare(grid, clusters, width, heads)
            ratios = (timing.speedup.median, timing.speedup.upper, timing.speedup.lower)
            middle, low, high = (1 / ratio for ratio in ratios)
            table.add_row(
                "×".join(map(str, grid)),
                "×".join(map(str, clusters)),
                str(width),
                f"{1000 * timing.first.median:.1f}",
                f"{1000 * timing.second.median:.1f}",
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
