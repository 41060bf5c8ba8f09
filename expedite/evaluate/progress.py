"""How far a sweep is and how long it goes on, above the table of what it measured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Over how long speed is averaged: a plan may take longer than the half minute that rich looks back.
_LOOK_BACK = 24 * 3600.0


class SweepProgress:
    """Bars for the plans of a sweep and for the images of the present one.

    Args:
        console: Where they are shown. Where it is no terminal, there is the table alone.
        plans: How many are to be measured, the unpatched model counted.
        images: How many each is measured on.
    """

    def __init__(self, console: Console, plans: int, images: int) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_LOOK_BACK,
        )
        self._plans = self.bars.add_task("plans", total=plans)
        self._images = self.bars.add_task("images", total=images)
        self._measured = 0

    def on_image(self, done: int, total: int) -> None:
        """Note how many images of the present plan are done."""
        if done == 1:  # a bar that was full once says for ever that no time is left
            self.bars.reset(self._images, total=total)
        self.bars.update(self._images, completed=done)
        # A part of a plan counts, or the first ones would say nothing of the time that is left.
        self.bars.update(self._plans, completed=self._measured + done / (total + 1))

    def on_plan(self) -> None:
        """Note that one plan more is measured."""
        self._measured += 1
        self.bars.update(self._plans, completed=self._measured)

    @contextmanager
    def shown(self, table: Callable[[], RenderableType]) -> Iterator[None]:
        """Show what is measured as it grows, and without bars when all of it is.

        Args:
            table: Makes what is shown below the bars.
        """
        if not self.console.is_terminal:
            yield
            self.console.print(table())
            return
        is_over = False

        def shown() -> RenderableType:
            # Bars come first: of what is higher than the terminal, the end is cut.
            return table() if is_over else Group(self.bars, table())

        with Live(console=self.console, get_renderable=shown):
            yield
            is_over = True
