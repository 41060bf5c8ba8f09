import csv
import errno
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from expedite import ExpediteError, Plan, Span
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.results import Results, load_results, read_results, replacing
from expedite.evaluate.sweep import Row
from expedite.loading import TaskName
from expedite.measure.mode import Job, Mode
from expedite.plan import make_plan
from expedite.report.markdown import markdown
from tests.damaged import damaged
from tests.evaluate.rows import SEGMENTATION

TASK: TaskName = "segmentation"
REQUEST = {"model": "segmenter:x", "image_size": [32, 32]}
ROWS = [
    Row(None, tokens=64, of_tokens=64, gflops=2.0, fps=10.0, metrics={"miou": 0.5}, retention=1.0),
    Row(make_plan(1, (4, 5)), 20, 64, 1.0, metrics={"miou": 0.45}, fidelity={"miou": 0.8}),
    Row(Plan((Span(1, keep=0.5, beta=1), Span(3, 4)), temperature=50.0), tokens=16, of_tokens=64),
    Row(plan_of("evit", 2, 4), tokens=16, of_tokens=64),
]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = Results(
        REQUEST, TASK, "expedite sweep", "a machine", ["a note"], list(ROWS), {"torch": "2"}
    )
    saved.save(tmp_path)
    assert load_results(tmp_path, REQUEST, TASK) == saved


def test_a_plan_that_was_measured_is_known_again(tmp_path: Path) -> None:
    Results(REQUEST, TASK, rows=list(ROWS)).save(tmp_path)
    found = load_results(tmp_path, REQUEST, TASK)
    assert found.base == ROWS[0]
    assert found.has(Job(make_plan(1, (4, 5)), Mode()))
    assert not found.has(Job(make_plan(1, (5, 4)), Mode()))
    assert not found.has(Job(make_plan(1, (4, 5)), Mode("bfloat16")))


def test_the_table_for_spreadsheets_has_one_line_a_row(tmp_path: Path) -> None:
    Results(REQUEST, TASK, rows=list(ROWS)).save(tmp_path)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [
        "",
        "expedite",
        "expedite temperature=50.0",
        "evit",
    ]
    assert [line["alpha"] for line in lines] == ["", "1", "1+3", "2"]
    assert [line["clusters"] for line in lines] == ["", "4x5", "+4x4", "4x4"]
    assert [line["miou"] for line in lines] == ["0.5", "0.45", "", ""]
    assert [line["fidelity_miou"] for line in lines] == ["", "0.8", "", ""]
    assert lines[1]["gflops"] == "1.0"
    assert lines[2]["temperature"] == "50.0"


def test_nothing_yet_is_an_empty_sweep(tmp_path: Path) -> None:
    found = load_results(tmp_path / "new", REQUEST, TASK)
    assert (found.task, found.rows) == (TASK, [])
    assert found.base is None


def test_another_sweeps_folder_is_refused(tmp_path: Path) -> None:
    Results(REQUEST, TASK).save(tmp_path)
    with pytest.raises(ExpediteError, match="holds a sweep with another image_size; give another"):
        load_results(tmp_path, {**REQUEST, "image_size": [64, 64]}, TASK)
    with pytest.raises(ExpediteError, match="holds a sweep with another image_size; give another"):
        load_results(tmp_path, {"model": REQUEST["model"]}, TASK)


def test_another_tasks_folder_is_refused(tmp_path: Path) -> None:
    Results(REQUEST, TASK).save(tmp_path)
    with pytest.raises(ExpediteError, match="another task"):
        load_results(tmp_path, REQUEST, "depth")


EMPTY = '"task": "segmentation", "command": "", "setting": "", "notes": [], "rows": []'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"{}", b"[]", b'{"request": {}, "rows": 3}', b"\xff\xfe"),
        b"[" * 100_000,
        f'{{"request": 1, {EMPTY}}}'.encode(),
    ],
    ids=lambda content: str(content[:12]),
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ExpediteError, match="does not hold the rows of a sweep"):
        load_results(tmp_path, REQUEST, TASK)


def entry(**changes: object) -> bytes:
    """A file of one row, of which some fields are others."""
    row = {"plan": None, "tokens": 1, "of_tokens": 1, **changes}
    content: dict[str, object] = {
        "request": {},
        "task": TASK,
        "command": "",
        "setting": "",
        "notes": [],
    }
    return json.dumps({**content, "rows": [row]}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"gflops": "many"},
        {"notes": [3]},
        {"metrics": [1]},
        {"fidelity": {"miou": [0.5]}},
        {"plan": {"spans": []}},
        {"plan": {"spans": [{"alpha": -1, "clusters": [4, 4]}]}},
        {"plan": 3},
        {"wishes": 3},
        {"tokens": None},
    ],
    ids=str,
)
def test_a_row_that_no_table_can_show_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    (tmp_path / "results.json").write_bytes(entry(**changes))
    with pytest.raises(ExpediteError, match="does not hold the rows of a sweep"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"task": "dreams"}, {"task": []}, {"notes": [3]}, {"command": None}], ids=str
)
def test_what_is_no_text_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "results.json").write_text(json.dumps({**json.loads(entry()), **changes}))
    with pytest.raises(ExpediteError, match="does not hold the rows of a sweep"):
        read_results(tmp_path)


def test_a_file_of_before_environments_were_noted_is_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(entry())
    assert read_results(tmp_path).environment == {}


def test_a_write_for_which_there_is_no_room_is_said_and_leaves_what_was_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.json"
    path.write_text("before")
    said = "results.json cannot be written: No space left on device; make room there"
    with pytest.raises(ExpediteError, match=said), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "a" / "b"):
        with pytest.raises(ExpediteError, match="file is a file; a folder is due"):
            load_results(folder, REQUEST, TASK)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform != "linux", reason="has no /proc, which takes nothing from root")
def test_a_folder_that_takes_nothing_is_refused_first() -> None:
    with pytest.raises(ExpediteError, match="nothing can be written to /proc "):
        load_results(Path("/proc/new/er"), REQUEST, TASK)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="on purpose"), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("on purpose")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("before")
    (tmp_path / ".results.json.partial").symlink_to("/dev/full")
    with pytest.raises(ExpediteError, match=r"results\.json cannot be written: No space left"):
        Results(REQUEST, TASK, rows=list(ROWS)).save(tmp_path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".results.json.partial").write_text('{"rows": [')
    saved = Results(REQUEST, TASK, rows=list(ROWS))
    saved.save(tmp_path)
    assert load_results(tmp_path, REQUEST, TASK) == saved
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.csv"}


def test_a_failed_save_is_not_half_written(tmp_path: Path) -> None:
    Results(REQUEST, TASK, rows=list(ROWS)).save(tmp_path)
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(TypeError):
        Results({"model": object()}, TASK, rows=list(ROWS)).save(tmp_path)
    assert (tmp_path / "results.json").read_text() == before
    assert json.loads(before)["rows"]


def test_a_sweep_is_read_by_its_folder_or_file(tmp_path: Path) -> None:
    saved = Results(REQUEST, TASK, rows=list(ROWS))
    saved.save(tmp_path)
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == saved
    with pytest.raises(ExpediteError, match="is not there"):
        read_results(tmp_path / "nothing")


def test_damaged_results_end_in_one_sentence_or_in_a_report(tmp_path: Path) -> None:
    """A part left out or replaced by what nobody meant; a sample of some 3000 of these."""
    whole = replace(SEGMENTATION, environment={"torch": "2"}, notes=["a"], command="x")
    whole.save(tmp_path)
    path = tmp_path / "results.json"
    every = [*damaged(json.loads(path.read_text()))]
    refused = 0
    for content in random.Random(0).sample(every, 150):
        path.write_text(json.dumps(content))
        try:
            found = read_results(path)
        except ExpediteError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        assert markdown([found])
        found.save(tmp_path)
        json.loads(path.read_text(), parse_constant=pytest.fail)
    assert refused > 50
