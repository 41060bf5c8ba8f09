"""A sweep whose process is killed, which no handler sees."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedite.cli import main
from expedite.models.segmenter_files import Preprocessing, save_segmenter
from tests.hosts import segmenter
from tests.processes import expedite, start

ALPHAS = ["0", "1", "2", "3"]


def words(folder: Path) -> list[str]:
    """A sweep of one image into `folder`/out."""
    preprocessing = Preprocessing("vit", 32, 32, 16, "")
    file = save_segmenter(segmenter(), preprocessing, "vit_64x4_patch4_32", folder / "model")
    (folder / "images/val").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (36, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images/val/a.png")
    found = ["sweep", f"segmenter:{file}", "--data", folder, "--out", folder / "out"]
    found += ["--alpha", ",".join(ALPHAS), "--clusters", 4, "--device", "cpu", "--seconds", "0.3"]
    return [*map(str, found)]


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out/results.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("loaded_server")
def test_finished_rows_are_neither_lost_nor_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = words(tmp_path)
    running = start(expedite, tmp_path / "killed", asked)
    end = time.monotonic() + 120
    while len(rows(tmp_path)) < 3 and time.monotonic() < end:
        assert running.code is None
        time.sleep(0.02)
    running.process.kill()
    assert running.wait()[0] == -signal.SIGKILL
    before = rows(tmp_path)  # which is whole, whatever was being done
    assert 3 <= len(before) <= len(ALPHAS)
    monkeypatch.setattr(sys, "argv", ["expedite", *asked])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    after = rows(tmp_path)
    assert after[: len(before)] == before  # times included: nothing was measured again
    assert [row["plan"] and str(row["plan"]["spans"][0]["alpha"]) for row in after] == [
        None,
        *ALPHAS,
    ]
    assert not list((tmp_path / "out").glob(".*"))
