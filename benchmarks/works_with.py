"""Write the table of docs/works_with.md: what is found of every way on every host there.

    pip install accelerate peft torchao
    python -m benchmarks.works_with

From the repository's root; takes up to ten minutes.
"""

import warnings
from importlib.metadata import version

from rich.progress import track

from benchmarks.marked import put
from tests.ways import DOCS, HOSTS, WAYS, line


def main() -> None:
    """Go every way and write."""
    warnings.simplefilter("ignore")  # of what is old or new in PyTorch and the libraries
    hosts = [f"{name} ({version(name.split()[0])})" for name in HOSTS]
    head = ("way", *hosts, "what is checked, or said", "with")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for way in track(WAYS, "ways"):
        library = way.needs or "torch"
        lines.append(f"{line(way)} {library} {version(library)} |")
    put(DOCS, "ways", "\n".join(lines))


if __name__ == "__main__":
    main()
