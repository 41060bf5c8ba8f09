"""Where the error of clusters comes from: the same spans, with one thing made exact.

    python -m benchmarks.oracles --count 28

On a trained DINOv2-S (`python -m benchmarks.real_weights`) and photographs out of wheels, a plan of
default settings runs as usual, and then with what only the unpatched model knows in its place:
keys and values of every token in some of its blocks, values alone, or the clusters' true means at
the end. The error is that of `benchmarks.accuracy`: squared distances of the last block's
normalised tokens to the unpatched model's, in percent of their variance; geometric means over
images. None of it can be had in practice: it says what is left to gain, and where.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.real_instruments import SQUARE, Kind, photographs
from benchmarks.real_weights import PATCH, load_timm
from expedite.operators.clustering import Clustering, cluster
from expedite.operators.reconstruction import token_weights
from expedite.operators.relocation import SHARE
from expedite.plan import Plan, Span

Exact = Literal["keys and values", "values"]
_GRID = (SQUARE[0] // PATCH, SQUARE[1] // PATCH)


@dataclass(frozen=True)
class Oracle:
    """What is exact, and in which blocks of the span, counted from its first."""

    exact: Exact = "keys and values"
    blocks: Collection[int] = ()
    means: bool = False  # the clusters' last tokens are their tokens' true means


ORACLES = {
    "as it is": Oracle(),
    "true keys and values in the first block": Oracle(blocks=(0,)),
    "in the first three": Oracle(blocks=range(3)),
    "in all": Oracle(blocks=range(99)),
    "true values of each cluster in the first block": Oracle("values", (0,)),
    "in all blocks": Oracle("values", range(99)),
    "true means of clusters after the last block": Oracle(means=True),
}


def states_of(model: Any, image: Tensor) -> list[Tensor]:
    """Tokens (1, 1 + N, C) that go into every block, and those that leave the last."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(image)))
    states = [tokens]
    for block in model.blocks:
        states.append(block(states[-1]))
    return states


def heads_of(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, heads, n, d)."""
    attention = block.attn
    split = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))
    queries, keys, values = split.permute(2, 0, 3, 1, 4)
    return queries, keys, values


def step(block: Any, x: Tensor, truth: Tensor, made: Clustering, exact: Exact | None) -> Tensor:
    """One block on a class token and clusters (1, 1 + h·w, C), what is exact read from `truth`."""
    bias: Tensor | None = F.pad(made.mass.clamp_min(1e-30).log(), (1, 0))[:, None, None]
    queries, keys, values = heads_of(block, x)
    if exact is not None:
        _, true_keys, true_values = heads_of(block, truth)
        if exact == "values":
            values = torch.cat([true_values[:, :, :1], _means(made, true_values[:, :, 1:])], 2)
        else:
            keys, values, bias = true_keys, true_values, None
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    x = x + block.ls1(block.attn.proj(mixed.transpose(1, 2).flatten(2)))
    after: Tensor = x + block.ls2(block.mlp(block.norm2(x)))
    return after


def _means(made: Clustering, values: Tensor) -> Tensor:
    """Of the members of every cluster: (1, heads, N, d) to (1, heads, h·w, d)."""
    assert made.assignment is not None  # the last step is hard
    flat = values.transpose(1, 2).flatten(2)
    means = made.assignment.means(flat, torch.zeros_like(flat[:, : made.mass.shape[1]]))
    batch, clusters, _ = means.shape
    return means.view(batch, clusters, values.shape[1], -1).transpose(1, 2)


def errors_of(model: Any, states: Sequence[Tensor], alpha: int, keep: float) -> list[float]:
    """In percent, for every oracle."""
    before = states[alpha][:, 1:]
    span = Span(alpha, keep=keep)
    plan: Any = Plan((span,)).settled(in_windows=False)
    centroids, made = cluster(
        before,
        _GRID,
        span.grid_for(_GRID),
        features=F.layer_norm(before, before.shape[-1:]),
        projection=plan.projection,
        basis=plan.basis,
        hard=True,
        relocated=SHARE,
        sharpness=plan.sharpness,
        length=plan.length,
    )
    weights = token_weights(made)
    found = []
    for oracle in ORACLES.values():
        x = torch.cat([states[alpha][:, :1], centroids], 1)
        for index, block in enumerate(model.blocks[alpha:]):
            exact = oracle.exact if index in oracle.blocks else None
            x = step(block, x, states[alpha + index], made, exact)
        after = x[:, 1:]
        if oracle.means and made.assignment is not None:
            after = made.assignment.means(states[-1][:, 1:], after)
        found.append(_error(model, weights.add_changes(after, centroids, before), states[-1]))
    return found


def _error(model: Any, tokens: Tensor, last: Tensor) -> float:
    answer, truth = model.norm(tokens), model.norm(last)[:, 1:]
    apart = (answer - truth).square().sum()
    return float(100 * apart / (truth - truth.mean(1, keepdim=True)).square().sum())


def _points(value: str, of: Callable[[str], float]) -> list[float]:
    return [of(one) for one in value.split(",")]


@torch.inference_mode()
def main(
    count: Annotated[int, typer.Option(help="Photographs.")] = 28,
    alphas: Annotated[str, typer.Option(help="Where spans begin.")] = "3,6",
    keeps: Annotated[str, typer.Option(help="Shares of tokens.")] = "0.5,0.25,0.13",
) -> None:
    """Print the table."""
    model: Any = load_timm()
    kind = Kind("photographs", SQUARE, ("error",), photographs)
    images = kind.group(["error"], count)[0].images
    points = [(int(a), k) for a in _points(alphas, int) for k in _points(keeps, float)]
    found: list[list[list[float]]] = [[] for _ in points]
    for image in track(images, "images"):
        states = states_of(model, image[None])
        for row, (alpha, keep) in zip(found, points, strict=True):
            row.append(errors_of(model, states, alpha, keep))
    table = Table("exact", *(f"α={alpha}, {keep:.0%}" for alpha, keep in points))
    for index, name in enumerate(ORACLES):
        means = [math.exp(sum(math.log(one[index]) for one in row) / len(row)) for row in found]
        table.add_row(name, *(f"{mean:.2f}" for mean in means))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
