"""Two sweeps into one folder: the second is refused, and one that died is no hindrance."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from expedite import ExpediteError
from expedite.evaluate.exclusive import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from expedite.evaluate.exclusive import exclusive

with exclusive(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_while_the_first_is_in(tmp_path: Path) -> None:
    said = "another sweep is writing to .*out; wait for its end, or give another --out"
    with exclusive(tmp_path / "out"):
        with pytest.raises(ExpediteError, match=said), exclusive(tmp_path / "out"):
            pass
        with exclusive(tmp_path / "other"):
            pass
        (tmp_path / "out/results.json").write_text("{}")
    with exclusive(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    assert not (tmp_path / "other").exists()  # nothing was written


def test_another_process_is_refused_until_it_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"in\n"
    with pytest.raises(ExpediteError, match="another sweep is writing"), exclusive(tmp_path):
        pass
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    holder.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with exclusive(tmp_path):
        pass
    assert not [*tmp_path.iterdir()]


def test_an_error_inside_lets_others_in(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), exclusive(tmp_path):
        raise RuntimeError("on purpose")
    with exclusive(tmp_path):
        pass
