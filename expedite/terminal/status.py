"""What long work is doing: a line that changes on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from expedite.terminal.text import clean_line, fitted

_EVERY = 15.0  # seconds between two lines on the same step
_A_SECOND = 2  # times that a terminal's line is drawn: work is being timed beside it


class Status:
    """Says what work is doing for as long as a `with` block lasts.

    Args:
        console: On standard error, so that it is not in the way of what was asked for.
        step: The first step of the work.
        every: Seconds after which a line is said again where there is no terminal.

    Example:
        >>> import sys
        >>> with Status(Console(file=sys.stdout), "loading") as status:
        ...     status.step("counting")
        [0:00] loading
        [0:00] counting
    """

    def __init__(self, console: Console, step: str, every: float = _EVERY) -> None:
        self.console = console
        self.every = every
        self._step, self._note = clean_line(step), ""
        self._began = console.get_time()
        self._view: Callable[[], RenderableType] | None = None
        self._live: Live | None = None
        self._changed = Condition()
        self._is_over = False
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        """Begin to say something."""
        if self.console.is_interactive:
            # What is printed goes where it belongs, which may be another stream than this one.
            self._live = Live(
                console=self.console,
                get_renderable=self._shown,
                refresh_per_second=_A_SECOND,
                redirect_stdout=False,
            )
            self._live.start(refresh=True)
        else:
            self._say()
            self._thread = Thread(target=self._go_on_saying, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Fall silent; a view that work ended in the middle of stays to be looked at."""
        if self._live is not None:
            self._live.transient = self._view is None
            self._live.stop()
        if self._thread is not None:
            with self._changed:
                self._is_over = True
                self._changed.notify()
            self._thread.join()

    def step(self, text: str) -> None:
        """A new step of the work begins."""
        with self._changed:
            self._step, self._note = clean_line(text), ""
            self._changed.notify()
        if self._live is None:
            self._say()
        else:
            self._live.refresh()

    def note(self, text: str) -> None:
        """How far the step is, for when it is said again."""
        self._note = clean_line(text)

    @contextmanager
    def showing(self, view: Callable[[], RenderableType]) -> Iterator[None]:
        """Show more than a line, where there is a terminal, until the block ends well."""
        self._view = view
        yield
        self._view = None

    def _go_on_saying(self) -> None:
        with self._changed:
            while not self._is_over:
                was_told = self._changed.wait(self.every)
                if not was_told and not self._is_over:
                    self._say()

    def _say(self) -> None:
        with suppress(OSError, ValueError):  # nobody listens any more, which ends no work
            self.console.print(Text(self._line()), soft_wrap=True)

    def _line(self) -> str:
        seconds = int(self.console.get_time() - self._began)
        note = f", {self._note}" if self._note else ""
        return f"[{seconds // 60}:{seconds % 60:02}] {self._step}{note}"

    def _shown(self) -> RenderableType:
        line = Text(fitted(self._line(), self.console.encoding))
        return Group(line, self._view()) if self._view else line
