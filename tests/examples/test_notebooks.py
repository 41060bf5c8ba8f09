"""What notebooks show is what their code shows now."""

import json
import runpy
from pathlib import Path

import pytest

from expedite.version import __version__

FOLDER = Path(__file__).parents[2] / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_was_run_as_it_stands(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    digest = runpy.run_path(str(FOLDER / "execute.py"))["digest"]
    ran = notebook["metadata"]["expedite"]
    assert ran == {"digest": digest(notebook), "version": __version__}, "make notebooks is due"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
