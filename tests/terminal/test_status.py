"""What long work says: a line for each step and now and then, or one that changes."""

import io
import re
import sys
from contextlib import redirect_stderr
from threading import Event

import pytest
from rich.console import Console

from expedite.terminal.console import make_console
from expedite.terminal.status import Status


class Heard(io.StringIO):
    """A file that says when it has so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines
        self.is_full = Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count("\n") >= self.lines:
            self.is_full.set()
        return written


def test_the_first_step_is_said_at_once_and_others_as_they_begin() -> None:
    file = io.StringIO()
    with Status(Console(file=file), "loading [x]\n") as status:
        assert file.getvalue() == "[0:00] loading [x]\\n\n"
        status.step("counting")
    assert file.getvalue().splitlines()[1:] == ["[0:00] counting"]


def test_a_long_step_is_said_again_with_how_far_it_is() -> None:
    file = Heard(4)
    with Status(Console(file=file), "measuring", every=0.01) as status:
        status.note("image 3 of 8")
        assert file.is_full.wait(30)
    assert file.getvalue().splitlines()[3].endswith("] measuring, image 3 of 8")


def test_minutes_are_told() -> None:
    now = iter([0.0, 0.0, 83.9])
    file = io.StringIO()
    status = Status(Console(file=file, get_time=lambda: next(now)), "a")
    status.step("b")
    status.step("c")
    assert file.getvalue() == "[0:00] b\n[1:23] c\n"


def test_on_a_terminal_one_line_changes_and_goes() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40)
    with Status(console, "loading") as status:
        print("an answer", file=sys.stdout)
        status.step("counting")
    text = file.getvalue()
    assert "loading" in text
    assert "an answer" not in text  # which may go elsewhere
    assert re.sub(r"\x1b\[[\d?]*[A-Za-z]|\s", "", text.rsplit("\r", 1)[-1]) == ""


@pytest.mark.parametrize("force_terminal", [False, True])
def test_errors_end_it_and_go_through(force_terminal: bool) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Status(Console(file=io.StringIO(), force_terminal=force_terminal), "loading") as status,
    ):
        raise KeyboardInterrupt
    assert status._thread is None or not status._thread.is_alive()


def test_who_does_not_listen_ends_no_work() -> None:
    file = io.StringIO()
    with Status(Console(file=file), "loading") as status:
        file.close()
        status.step("counting")


def test_it_is_heard_while_exporters_turn_standard_error_aside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = Status(make_console(stderr=True), "loading")
    with redirect_stderr(io.StringIO()):
        status.step("writing")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "[0:00] writing\n")


@pytest.mark.parametrize("columns", [None, "40"])
def test_lines_are_whole_in_a_pipe(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    name = "timm:" + "x" * 300
    Status(make_console(stderr=True), "").step(name)
    assert name in capsys.readouterr().err
