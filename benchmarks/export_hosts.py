"""Export a small patched model of every host in docs/hosts.md, and print docs/export.md's table.

    python -m benchmarks.export_hosts [PART OF A HOST'S NAME ...]

From the repository's root; takes about half an hour.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import expedite
from expedite.errors import ExpediteError
from expedite.exporting.formats import FORMATS, FormatName
from tests.host_table import HOSTS, Host

NAMES: tuple[FormatName, ...] = ("onnx", "torch-export")


def cell(host: Host, name: FormatName, folder: Path) -> str:
    """How far the file of a patched model is from the model, or why there is none."""
    torch.manual_seed(0)
    # One more cluster a side than half of the tokens, so that sizes do not divide.
    model = expedite.patch(host.small(), alpha=1, clusters=host.clusters // 2 + 1)
    try:
        out = folder / f"model{FORMATS[name].suffix}"
        found = expedite.export(model, host.images, out, name)
    except ExpediteError as error:
        return str(error)
    largest = max(difference.largest for difference in found.differences)
    return f"{largest / max(difference.scale for difference in found.differences):.0e}"


def rows(wanted: list[str]) -> Iterator[str]:
    """One line for each host."""
    with TemporaryDirectory() as folder:
        for host in HOSTS:
            if not wanted or any(part in host.name for part in wanted):
                cells = (cell(host, name, Path(folder)) for name in NAMES)
                yield f"| {host.name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table as it grows."""
    print(f"| host | {' | '.join(NAMES)} |\n|---|---|---|")
    for row in rows(sys.argv[1:]):
        print(row, flush=True)


if __name__ == "__main__":
    main()
