"""Write the tables of coverage in docs/hosts.md: which families are taken, which refused and why.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --only hiera

From the repository's root; takes about ten minutes. Models are built small and random from their
real classes; models of packages that are not installed are listed as such. A model works when
everything that can be read of a call keeps its shape and is finite, the output changes, the plain
output comes back with every token a cluster of its own, and unpatching gives it back to the bit.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from rich.progress import track
from torch import Tensor, nn

import expedite
from benchmarks.coverage_models import Row, rows
from benchmarks.coverage_timm import counts
from expedite.operators import clustering
from expedite.patching.describing import the_host
from tests.host_table import DOCS
from tests.hosts import randomized
from tests.patching.test_oracles import HARD

WORKS, REFUSED, WRONG = "works", "refused", "**WRONG**"
NOT_INSTALLED, NOT_BUILT = "not installed", "not built"


@dataclass(frozen=True)
class Result:
    """What became of a row, and why, in a sentence."""

    row: Row
    kind: str
    why: str = ""

    def __str__(self) -> str:
        why = self.why.replace("|", "\\|").replace("\n", " ")
        return f"| {self.row.model} | {self.row.library} | {self.kind} | {why} |"


def examine(row: Row) -> Result:
    """Build a row's model and check it."""
    try:
        torch.manual_seed(0)
        model = randomized(row.make().eval())
        images = torch.randn(row.shape)
        plain = row.outputs(model, images)
    except ModuleNotFoundError as error:
        return Result(row, NOT_INSTALLED, f"no module {error.name}")
    except Exception as error:  # one row's trouble is not the others': it is told in the table
        return Result(row, NOT_BUILT, f"{type(error).__name__}: {error}"[:200])
    try:
        return Result(row, *_checked(row, model, images, plain))
    except expedite.ExpediteError as error:
        return Result(row, REFUSED, _short(str(error)))
    except Exception as error:  # as above; what is no sentence of ours is wrong
        return Result(row, WRONG, f"{type(error).__name__}: {error}"[:200])


def _checked(row: Row, model: nn.Module, images: Tensor, plain: list[Tensor]) -> tuple[str, str]:
    alpha, whole = _plan(model)
    expedite.patch(model, alpha=alpha, clusters=(-(-whole[0] // 2), -(-whole[1] // 2)))
    found = row.outputs(model, images)
    expedite.unpatch(model)
    if [t.shape for t in found] != [t.shape for t in plain]:
        return WRONG, "shapes of outputs differ"
    if not all(t.isfinite().all() for t in found if t.is_floating_point()):
        return WRONG, "outputs are not finite"
    if all(map(torch.equal, found, plain)):
        return WRONG, "the outputs are the plain model's"
    if not all(map(torch.equal, row.outputs(model, images), plain)):
        return WRONG, "unpatching does not give the plain outputs back"
    with _without_shortcut():
        expedite.patch(model, alpha=alpha, clusters=whole, **HARD)
        full = row.outputs(model, images)
    return (WORKS, "") if _same(full, plain) else (WRONG, "the full grid is not the plain model's")


def _plan(model: nn.Module) -> tuple[int, tuple[int, int]]:
    """The second block of the longest stage, and as many clusters as tokens."""
    _, host = the_host(model)
    if not host.stages:
        return 1, host.window or host.usual_grid
    index = max(range(len(host.stages)), key=lambda i: host.stages[i].depth)
    first = sum(stage.depth for stage in host.stages[:index])
    whole = host.windows or host.grids(host.usual_grid)
    return first + (host.stages[index].depth > 1), whole[index]


@contextmanager
def _without_shortcut() -> Iterator[None]:
    with patch.object(clustering, "_keeps_every_token", lambda grid, clusters: False):
        yield


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    # In the mean: ranks of scores and rounding to whole numbers differ here and there.
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if b.is_floating_point()]
    return all((a - b).abs().mean() <= 1e-3 * b.abs().mean() + 1e-6 for a, b in pairs)


def _short(sentence: str) -> str:
    """Without the list of known families, which is above the table."""
    return re.sub(r"; known are .*", "", sentence)


def table(results: Sequence[Result]) -> str:
    """Lines for docs/hosts.md."""
    kinds = Counter(result.kind for result in results)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    head = "| model | library | result | why |\n|---|---|---|---|"
    return "\n".join([f"{len(results)} models: {counted}.", "", head, *map(str, results)])


def write(name: str, text: str) -> None:
    """Put a text between its two marks in docs/hosts.md."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    docs = DOCS.read_text()
    DOCS.write_text(
        re.sub(pattern, lambda found: f"{found[1]}{text}\n{found[2]}", docs, flags=re.S)
    )


def main(
    only: Annotated[str, typer.Option(help="Part of a name; prints and writes nothing.")] = "",
) -> None:
    """Build, check, count and write."""
    results = []
    chosen = [row for row in rows() if only.lower() in row.model.lower()]
    with torch.no_grad():
        for row in track(chosen, "models"):
            results.append(examine(row))
            print(results[-1], flush=True)
    if not only:
        write("coverage", table(results))
        write("timm", counts())


if __name__ == "__main__":
    typer.run(main)
