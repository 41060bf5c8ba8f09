"""What is shown of a sweep while it runs: time on a terminal, a line for each plan elsewhere."""

import io
import time

import pytest
from rich.console import Console

from expedite.evaluate.progress import SweepProgress
from expedite.terminal.status import Status


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(progress: SweepProgress) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(progress.bars)
    return console.export_text()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> SweepProgress:
    """Of four plans on ten images, a minute each: longer than rich looks back by itself."""
    status = Status(Console(file=io.StringIO(), get_time=clock), "loading")
    found = SweepProgress(status, plans=4, images=10)
    found.bars.start_task(found._plans)
    return found


def measure(progress: SweepProgress, clock: Clock, images: int) -> None:
    for done in range(1, images + 1):
        clock.now += 60
        progress.on_image(done, 10)


def test_time_is_left_before_the_first_plan_is_done(progress: SweepProgress, clock: Clock) -> None:
    measure(progress, clock, images=5)
    plans, images = shown(progress).splitlines()
    assert "0/4" in plans
    assert "5/10" in images
    assert "left 0:05:00" in images  # five images of a minute
    hours, minutes, _ = map(int, plans.split()[-1].split(":"))
    assert 33 <= 60 * hours + minutes <= 41


def test_time_is_left_in_later_plans_too(progress: SweepProgress, clock: Clock) -> None:
    measure(progress, clock, images=10)
    progress.on_plan()
    measure(progress, clock, images=5)
    plans, images = shown(progress).splitlines()
    assert "1/4" in plans
    assert "left 0:05:00" in images  # and not 0, as of a bar that was full


def test_nothing_is_left_at_the_end(progress: SweepProgress, clock: Clock) -> None:
    for _ in range(4):
        measure(progress, clock, images=10)
        progress.on_plan()
    plans, _ = shown(progress).splitlines()
    assert "4/4" in plans
    assert "left 0:00:00" in plans


def test_elsewhere_each_plan_is_said() -> None:
    file = io.StringIO()
    progress = SweepProgress(Status(Console(file=file), "loading"), plans=2, images=1)
    for name in ("unpatched", "α4 20x20"):
        progress.on_start(name)
        progress.on_image(1, 1)
        progress.on_plan()
    assert file.getvalue().splitlines() == [
        "[0:00] measuring unpatched, 1 of 2",
        "[0:00] measuring α4 20x20, 2 of 2",
    ]


def test_on_a_terminal_there_are_bars_until_the_end() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with Status(console, "loading") as status:
        progress = SweepProgress(status, plans=1, images=1)
        with progress.shown(lambda: "the table"):
            progress.on_image(1, 1)
            while "left" not in file.getvalue():  # a thread of rich shows it
                time.sleep(0.01)
    assert "the table" in file.getvalue()
    # The last frame is wiped out: the table that stays is on standard output.
    assert file.getvalue().endswith("\x1b[2K")


def test_what_was_measured_before_an_interruption_stays() -> None:
    def interrupted(progress: SweepProgress) -> None:
        with progress.shown(lambda: "the table"):
            raise KeyboardInterrupt

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), Status(console, "loading") as status:
        interrupted(SweepProgress(status, plans=1, images=1))
    last = file.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert "the table" in last
    assert last.rstrip().endswith("\x1b[?25h")  # the cursor is back
