"""How far a sweep is and how long it goes on, above the table of what it measured."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from rich.console import Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from expedite.terminal.status import Status

# Over how long speed is averaged: a plan may take longer than the half minute that rich looks back.
_LOOK_BACK = 24 * 3600.0


class SweepProgress:
    """The plans of a sweep and the images of the present one, as bars where there is a terminal.

    Args:
        status: What says it.
        plans: How many are to be measured, the unpatched model counted.
        images: How many each is measured on.
    """

    def __init__(self, status: Status, plans: int, images: int) -> None:
        self.status = status
        self.plans = plans
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=status.console,
            speed_estimate_period=_LOOK_BACK,
        )
        self._plans = self.bars.add_task("plans", total=plans)
        self._images = self.bars.add_task("images", total=images)
        self._measured = 0

    def on_start(self, name: str) -> None:
        """Note which plan is measured next."""
        self.status.step(f"measuring {name}, {self._measured + 1} of {self.plans}")

    def on_image(self, done: int, total: int) -> None:
        """Note how many images of the present plan are done."""
        if done == 1:  # a bar that was full once says for ever that no time is left
            self.bars.reset(self._images, total=total)
        self.bars.update(self._images, completed=done)
        self.status.note(f"image {done} of {total}")
        # A part of a plan counts, or the first ones would say nothing of the time that is left.
        self.bars.update(self._plans, completed=self._measured + done / (total + 1))

    def on_plan(self) -> None:
        """Note that one plan more is measured."""
        self._measured += 1
        self.bars.update(self._plans, completed=self._measured)

    def shown(self, table: Callable[[], RenderableType]) -> AbstractContextManager[None]:
        """Show what is measured as it grows, until all of it is.

        Args:
            table: Makes what is shown below the bars.
        """
        # Bars come first: of what is higher than the terminal, the end is cut.
        return self.status.showing(lambda: Group(self.bars, table()))
