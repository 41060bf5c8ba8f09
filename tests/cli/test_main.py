"""What holds of every command."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from expedite.evaluate.results import Results
from expedite.version import __version__
from tests.cli.conftest import PLAN, Run
from tests.evaluate.rows import ROWS


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk with no more room, larger files cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_module_and_script_are_the_same() -> None:
    words = [sys.executable, "-m", "expedite", "recipes"]
    asked = [*words, "dpt-hybrid-kitti", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["recipes"][0]["name"] == "dpt-hybrid-kitti"
    bad = subprocess.run([*words, "nothing"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines()[-1].startswith("error: the recipe 'nothing' was asked")
    assert "Traceback" not in bad.stderr


def test_version(run: Run) -> None:
    assert run("--version") == f"expedite {__version__}\n"


@pytest.mark.parametrize("command", ["sweep", "visualize", "report"])
def test_a_full_disk(
    command: str,
    sweep: list[object],
    checkpoint: Path,
    data: Path,
    refusal: Run,
    tmp_path: Path,
) -> None:
    Results({"model": "x"}, "segmentation", rows=list(ROWS)).save(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    picture = ["visualize", f"segmenter:{checkpoint}", data / "images/val/a.png", *PLAN]
    words = {
        "sweep": sweep,
        "visualize": [*picture, "--out", tmp_path / "x.png"],
        "report": ["report", tmp_path, "--out", tmp_path / "x.md"],
    }[command]
    with files_of_at_most(300):
        assert " cannot be written: File too large; make room there" in refusal(*words)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "out"] == before
