"""Write the tables of coverage in docs/hosts.md: which families are taken, which refused and why.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --only hiera

From the repository's root; takes about twenty minutes of one core, with one thread. What came of
each model is kept at once, in a file of the commit's name in the cache of the benchmarks, so that a
run that was stopped goes on where it was. Models are built small and random from their
real classes; models of packages that are not installed are listed as such. A model works when
everything that can be read of a call keeps its shape and is finite, the output changes, the plain
output comes back with every token a cluster of its own, and unpatching gives it back to the bit.
"""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from rich.progress import track
from torch import Tensor, nn

import expedite
from benchmarks import coverage_more
from benchmarks.coverage_models import Row, rows
from benchmarks.coverage_named import summary
from benchmarks.coverage_timm import counts
from benchmarks.marked import put
from benchmarks.real_weights import cache
from expedite.operators import clustering
from expedite.patching.describing import the_hosts
from expedite.patching.host import Host
from tests.host_table import DOCS
from tests.hosts import randomized
from tests.patching.test_oracles import HARD

WORKS, REFUSED, WRONG = "works", "refused", "**WRONG**"
NOT_INSTALLED, NOT_BUILT = "not installed", "not built"


@dataclass(frozen=True)
class Result:
    """What became of a row, and why, in a sentence."""

    model: str
    library: str
    kind: str
    why: str = ""

    def __str__(self) -> str:
        why = self.why.replace("|", "\\|").replace("\n", " ")
        return f"| {self.model} | {self.library} | {self.kind} | {why} |"


# Of images: outputs that this alone moves, as a detector's in the order of its scores, say nothing.
_MORE = 1 + 1e-6


def examine(row: Row) -> Result:
    """Build a row's model and check it."""
    made = partial(Result, row.model, row.library)
    try:
        torch.manual_seed(0)
        model = randomized(row.make().eval())
        images = torch.randn(row.shape)
        plain = row.outputs(model, images)
        if not _are_finite(plain):  # convolutions in a row make such weights overflow
            model = row.make().eval()
            plain = row.outputs(model, images)
    except ModuleNotFoundError as error:
        return made(NOT_INSTALLED, f"no module {error.name}")
    except Exception as error:  # one row's trouble is not the others': it is told in the table
        return made(NOT_BUILT, f"{type(error).__name__}: {error}"[:200])
    try:
        return made(*_checked(row, model, images, plain))
    except expedite.ExpediteError as error:
        return made(REFUSED, _short(str(error)))
    except Exception as error:  # as above; what is no sentence of ours is wrong
        return made(WRONG, f"{type(error).__name__}: {error}"[:200])


def _checked(row: Row, model: nn.Module, images: Tensor, plain: list[Tensor]) -> tuple[str, str]:
    alpha, whole = _plan(row, model, images)
    expedite.patch(model, alpha=alpha, clusters=(-(-whole[0] // 2), -(-whole[1] // 2)))
    found = row.outputs(model, images)
    expedite.unpatch(model)
    if [t.shape for t in found] != [t.shape for t in plain]:
        return WRONG, "shapes of outputs differ"
    if not _are_finite(found):
        return WRONG, "outputs are not finite"
    if all(map(torch.equal, found, plain)):
        return WRONG, "the outputs are the plain model's"
    if not all(map(torch.equal, row.outputs(model, images), plain)):
        return WRONG, "unpatching does not give the plain outputs back"
    with _without_shortcut():
        expedite.patch(model, alpha=alpha, clusters=whole, **HARD)
        full = row.outputs(model, images)
    expedite.unpatch(model)
    moved = row.outputs(model, images * _MORE)
    apart = [not _are_near(*pair) for pair in zip(full, plain, strict=True)]
    if all(apart) or any(map(_are_near, compress(moved, apart), compress(plain, apart))):
        return WRONG, "the full grid is not the plain model's"
    return WORKS, ""


def _are_finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in outputs if t.is_floating_point())


def _plan(row: Row, model: nn.Module, images: Tensor) -> tuple[int, tuple[int, int]]:
    """The second block of the longest stage, and as many clusters as tokens."""
    (_, host), *others = the_hosts(model)
    if not host.stages:
        is_usual = others or not host.any_size
        return 1, host.window or (host.usual_grid if is_usual else _grid(row, model, images, host))
    index = max(range(len(host.stages)), key=lambda i: host.stages[i].depth)
    first = sum(stage.depth for stage in host.stages[:index])
    whole = host.windows or host.grids(host.usual_grid)
    return first + (host.stages[index].depth > 1), whole[index]


def _grid(row: Row, model: nn.Module, images: Tensor, host: Host) -> tuple[int, int]:
    """The grid that the row's images make."""
    grids = []
    handle = host.embedding.register_forward_hook(
        lambda module, args, output: grids.append(host.grid(module, args, output))
    )
    row.outputs(model, images)
    handle.remove()
    return grids[0]


@contextmanager
def _without_shortcut() -> Iterator[None]:
    with patch.object(clustering, "_keeps_every_token", lambda grid, clusters: False):
        yield


def _are_near(found: Tensor, expected: Tensor) -> bool:
    """Whether an output is another in the mean: rounding to whole numbers differs somewhere."""
    if not expected.is_floating_point():
        return True
    return bool((found - expected).abs().mean() <= 1e-3 * expected.abs().mean() + 1e-6)


def _short(sentence: str) -> str:
    """Without the list of known families, which is above the table."""
    return re.sub(r"; known are .*", "", sentence)


def kept() -> Path:
    """The file of what came of models at this commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    return cache() / f"coverage-{commit.stdout.strip()}.jsonl"


def resumed(rows: Sequence[Row], file: Path) -> Iterator[Result]:
    """What comes of models, of those that are not in the file yet by examining and adding them."""
    lines = file.read_text().splitlines() if file.exists() else []
    known = {found["model"]: Result(**found) for found in map(json.loads, lines)}
    for row in track(rows, "models"):
        if row.model not in known:
            known[row.model] = examine(row)
            with file.open("a") as appended:
                appended.write(f"{json.dumps(asdict(known[row.model]))}\n")
            print(known[row.model], flush=True)
        yield known[row.model]


def table(results: Sequence[Result]) -> str:
    """Lines for docs/hosts.md."""
    named = summary({result.model: result.kind for result in results})
    head = "| model | library | result | why |\n|---|---|---|---|"
    return "\n".join([f"{_counted(results)} {named}", "", head, *map(str, results)])


def _counted(results: Sequence[Result]) -> str:
    kinds = Counter(result.kind for result in results)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(results)} models: {counted}."


def main(
    only: Annotated[str, typer.Option(help="Part of a name; prints and writes nothing.")] = "",
    results: Annotated[Path | None, typer.Option(help="Where what came of models is kept.")] = None,
) -> None:
    """Build, check, count and write."""
    torch.set_num_threads(1)
    every = [*rows(), *coverage_more.rows()]
    chosen = [row for row in every if only.lower() in row.model.lower()]
    with torch.no_grad():
        if only:
            for row in chosen:
                print(examine(row))
            return
        put(DOCS, "coverage", table(list(resumed(chosen, results or kept()))))
        put(DOCS, "timm", counts())


if __name__ == "__main__":
    typer.run(main)
