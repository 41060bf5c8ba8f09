"""Run the notebooks with the shipped models and keep what they showed: `make notebooks`.

A digest of the code that ran is kept with it, by which tests see that somebody changed it since.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from expedite.version import __version__

HERE = Path(__file__).parent


def digest(notebook: dict[str, Any]) -> str:
    """What the code cells of a notebook come to."""
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def main() -> None:
    """Run all of them, in place."""
    import nbclient
    import nbformat

    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=600, record_timing=False).execute(cwd=str(HERE))
        for cell in notebook.cells:  # what libraries warn of is of this machine
            if cell.cell_type == "code":
                cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
        ran = {"digest": digest(json.loads(nbformat.writes(notebook))), "version": __version__}
        notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "expedite": ran}
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
