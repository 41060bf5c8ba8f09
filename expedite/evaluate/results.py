"""The rows of a sweep on disk: results.json to go on from, results.csv for spreadsheets.

Files are written beside their place and renamed, so that a sweep can be stopped at any moment.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from math import nan
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from expedite.errors import ExpediteError, first_line
from expedite.evaluate.comparators import method_of
from expedite.evaluate.comparators.rival import Rival
from expedite.evaluate.json_text import json_text
from expedite.evaluate.sweep import Row
from expedite.evaluate.tasks import TASKS
from expedite.loading import TaskName
from expedite.measure.mode import Job, Mode
from expedite.plan import Plan, Span

_FILE = "results.json"
_MEASURED = ("metrics", "fidelity")


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
        environment: The machine and the libraries, see `environment.environment`.
    """

    request: dict[str, Any]
    task: TaskName
    command: str = ""
    setting: str = ""
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

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
        if setting not in self.setting.split("; "):
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
            "environment": self.environment,
            "rows": [asdict(row) for row in self.rows],
        }
        with replacing(folder / _FILE) as file:
            file.write(json_text(content).encode())
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
        ExpediteError: The folder is a file, cannot be written, holds another sweep, or a file that
            is not of a sweep.
    """
    path = folder / _FILE
    check_writable(folder)
    if not path.exists():
        return Results(request, task)
    found = read_results(path)
    if (found.request, found.task) != (json.loads(json_text(request)), task):
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
        found = Results(
            {**content["request"]},
            content["task"],
            content["command"],
            content["setting"],
            [*content["notes"]],
            [_row(row) for row in content["rows"]],
            {**content.get("environment", {})},
        )
        _check(found)
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ExpediteError(
            f"{path} does not hold the rows of a sweep: {first_line(error)}"
        ) from error
    return found


def _check(found: Results) -> None:
    """Refuse what no table can show: a file is not to fail in the middle of a report."""
    of_rows = [note for row in found.rows for note in row.notes]
    words = [found.command, found.setting, *found.notes, *of_rows, *found.environment.values()]
    if found.task not in TASKS or not all(isinstance(word, str) for word in words):
        raise ValueError(f"the task is {found.task!r}, or something in words is not a text")
    for row in found.rows:
        Mode(row.dtype, row.compile)  # refuses what nobody knows
        retention = 0.0 if row.retention is None else row.retention
        figures = asdict(replace(row, plan=None, retention=retention))
        for name in ("plan", "dtype", "compile", "notes"):
            del figures[name]
        named = [figures.pop(name).values() for name in ("metrics", "fidelity", "unsupported_ops")]
        for value in [*figures.values(), *chain(*named)]:
            if not isinstance(value, (int, float)):
                raise ValueError(f"a figure is {value!r}")
        if row.of_tokens < 1:
            raise ValueError(f"a row is of {row.of_tokens} tokens")


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before any time goes into what should be.

    Raises:
        ExpediteError: It is a file or below one, or neither it nor, where it is yet to be made, the
            folder that is to hold it takes a file.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ExpediteError(f"{folder} was to be written, and {place} is a file; a folder is due")
    try:
        with TemporaryFile(dir=place):
            return
    except OSError as error:
        raise ExpediteError(
            f"{folder} was to be written, and nothing can be written to {place} "
            f"({error.strerror}); another --out is due"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place only when it is whole, and on the disk.

    Raises:
        ExpediteError: It cannot be written: the disk is full, the folder is not there, ...
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
            f"{path} cannot be written: {error.strerror or error}; make room there, or give "
            "another place"
        ) from error
    finally:
        with suppress(OSError):  # whose cause was said
            partial.unlink(missing_ok=True)


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
    del measured["plan"], measured["notes"]
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
    numbers = {name: _numbers(content[name]) for name in _MEASURED if name in content}
    notes = tuple(content.get("notes", ()))
    plan = None if plan is None else _plan(plan)
    return Row(**{**content, **numbers, "notes": notes, "plan": plan})


def _numbers(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by name; JSON has null for those that are no numbers."""
    return {name: nan if value is None else value for name, value in figures.items()}


def _plan(content: dict[str, Any]) -> Plan:
    spans = tuple(
        Span(**{**span, "clusters": span["clusters"] and tuple(span["clusters"])})
        for span in content["spans"]
    )
    kind = Rival if "merge" in content else Plan
    return kind(**{**content, "spans": spans})
