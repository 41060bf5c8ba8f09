"""The rows of a sweep on disk: results.json to go on from, results.csv for spreadsheets.

Files are written beside their place and renamed, so that a sweep can be stopped at any moment.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from json import JSONDecodeError
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from expedite.errors import ExpediteError
from expedite.evaluate.comparators import method_of
from expedite.evaluate.comparators.rival import Rival
from expedite.evaluate.mode import Job, Mode
from expedite.evaluate.sweep import Row
from expedite.loading import TaskName
from expedite.models.files import first_line
from expedite.plan import Plan, Span

_FILE = "results.json"


@dataclass
class Results:
    """Rows with what they were measured on.

    Args:
        request: What was asked: the model, the data, the device, ...; rows measured under one
            request can be compared and added to.
        task: What the rows' metrics are of.
        command: What repeats it.
        setting: Under what speed was measured.
        notes: Sentences that belong under the table.
        rows: The unpatched model first.
    """

    request: dict[str, Any]
    task: TaskName
    command: str = ""
    setting: str = ""
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def base(self) -> Row | None:
        """The first row of the unpatched model, once it is measured."""
        return next((row for row in self.rows if row.plan is None), None)

    def base_of(self, mode: Mode) -> Row | None:
        """The row of the unpatched model that those of a mode are compared with."""
        return next((row for row in self.rows if row.plan is None and row.mode == mode), None)

    def has(self, job: Job) -> bool:
        """Whether a plan was measured in its mode."""
        return any((row.plan, row.mode) == job for row in self.rows)

    def add_setting(self, setting: str) -> None:
        """Note under what rows are measured from now on, beside what was noted before."""
        if setting not in self.setting:
            self.setting = "; ".join(filter(None, [self.setting, setting]))

    def save(self, folder: Path) -> None:
        """Write results.json and results.csv, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "request": self.request,
            "task": self.task,
            "command": self.command,
            "setting": self.setting,
            "notes": self.notes,
            "rows": [asdict(row) for row in self.rows],
        }
        with replacing(folder / _FILE) as file:
            file.write(json.dumps(content, indent=2).encode())
        with replacing(folder / "results.csv") as file:
            file.write(self._csv().encode())

    def _csv(self) -> str:
        text = io.StringIO()
        table = [flat(row) for row in self.rows]
        names = dict.fromkeys(name for line in table for name in line)
        writer = csv.DictWriter(text, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue()


def load_results(folder: Path, request: dict[str, Any], task: TaskName) -> Results:
    """What a folder holds of a sweep, to be gone on with; empty where there is nothing yet.

    Raises:
        ExpediteError: The folder is a file, holds another sweep, or a file that is not of a sweep.
    """
    path = folder / _FILE
    if folder.exists() and not folder.is_dir():
        raise ExpediteError(f"results were to go to {folder}, which is a file; a folder is due")
    if not path.exists():
        return Results(request, task)
    found = read_results(path)
    if (found.request, found.task) != (json.loads(json.dumps(request)), task):
        keys = dict.fromkeys([*request, *found.request])
        differing = [key for key in keys if found.request.get(key) != request.get(key)]
        raise ExpediteError(
            f"{folder} holds a sweep with another {', '.join(differing) or 'task'}; give "
            "another --out to keep both, or remove it"
        )
    return found


def read_results(path: Path) -> Results:
    """The sweep in a results.json, or in a folder with one.

    Raises:
        ExpediteError: There is none, or the file is not of a sweep.
    """
    path = path / _FILE if path.is_dir() else path
    if not path.exists():
        raise ExpediteError(f"{path} was to hold the rows of a sweep, and is not there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Results(
            {**content["request"]},
            content["task"],
            content["command"],
            content["setting"],
            content["notes"],
            [_row(row) for row in content["rows"]],
        )
    except (KeyError, TypeError, RecursionError, JSONDecodeError, UnicodeDecodeError) as error:
        raise ExpediteError(
            f"{path} does not hold the rows of a sweep: {first_line(error)}"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place only when it is whole, and on the disk.

    Raises:
        ExpediteError: The disk is full, or cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ExpediteError(
            f"{path} could not be written ({error.strerror}); what was there before is left as it "
            "was, and the same command goes on from there"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder and refuse one that takes no file, before hours go into what it is to hold.

    Raises:
        ExpediteError: Nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ExpediteError(
            f"results were to go to {folder}, where nothing can be written ({error.strerror}); "
            "another --out is due"
        ) from error


def flat(row: Row) -> dict[str, Any]:
    """One line of a table: the method and spans, what was measured, the plan's settings.

    Several spans are joined by a plus sign. Every metric has a column, and another of the same name
    after `fidelity_`.

    Example:
        >>> flat(Row(Plan((Span(4, 20),)), tokens=400, of_tokens=1600))["clusters"]
        '20x20'
    """
    plan = {f.name: _plain(getattr(row.plan, f.name)) if row.plan else "" for f in fields(Plan)}
    del plan["spans"]
    measured = asdict(row)
    del measured["plan"]
    measured["unsupported_ops"] = " ".join(measured["unsupported_ops"])
    measured |= measured.pop("metrics")
    measured |= {f"fidelity_{name}": value for name, value in measured.pop("fidelity").items()}
    method = method_of(row.plan) if row.plan else ""
    return {"method": method, **_spans(row.plan), **measured, **plan}


def _spans(plan: Plan | None) -> dict[str, str]:
    spans = plan.spans if plan else ()
    return {f.name: "+".join(_plain(getattr(span, f.name)) for span in spans) for f in fields(Span)}


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "" if value is None else str(value)


def _row(content: dict[str, Any]) -> Row:
    plan = content["plan"]
    return Row(**{**content, "plan": None if plan is None else _plan(plan)})


def _plan(content: dict[str, Any]) -> Plan:
    spans = tuple(
        Span(**{**span, "clusters": span["clusters"] and tuple(span["clusters"])})
        for span in content["spans"]
    )
    kind = Rival if "merge" in content else Plan
    return kind(**{**content, "spans": spans})
