"""Tables of names and figures, in which no name is ever broken or cut."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from textwrap import wrap
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from expedite.terminal.text import clean, clean_line, fitted

_GAP = "  "
_LEAST_PROSE = 24  # characters that a column of sentences gets at least


class Column(NamedTuple):
    """What stands in a column.

    Args:
        title: Above it; a newline in it is one.
        right: Figures stand to the right.
        spare: Left out where there is no room for all.
        prose: Sentences, which may go on in the next line; the last column alone.
    """

    title: str
    right: bool = False
    spare: bool = False
    prose: bool = False


class _Row(NamedTuple):
    cells: Sequence[str]
    bold: bool


@dataclass
class Listing:
    """A table whose first column names its rows.

    Where it is too wide, spare columns are left out, the last one first. Where that does not help,
    each name has a line of its own, with all its figures below it.

    Args:
        columns: From left to right.
        title: A line above it.

    Example:
        >>> table = Listing([Column("recipe"), Column("rows", right=True)])
        >>> table.add("segmenter-vit-l16-ade20k", "4")
        >>> Console(width=80).print(table)
        recipe                    rows
        ──────────────────────────────
        segmenter-vit-l16-ade20k     4
        <BLANKLINE>
    """

    columns: Sequence[Column]
    title: str = ""
    rows: list[_Row] = field(default_factory=list)

    def add(self, name: str, *cells: str, bold: bool = False) -> None:
        """Add a row; newlines in a name are none, in other cells they are."""
        self.rows.append(_Row((clean_line(name), *map(clean, cells)), bold))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """In the widest form that there is room for."""
        fit = partial(fitted, encoding=options.encoding)
        if self.title:
            yield _line(fit(clean_line(self.title)), "italic")
        yield from self._lines(fit, options.max_width)
        yield Text()

    def _lines(self, fit: Callable[[str], str], room: int) -> Iterator[Text]:
        for places in self._choices():
            grid = _Grid(
                [self.columns[place] for place in places],
                [fit(self.columns[place].title) for place in places],
                [_Row([fit(row.cells[place]) for place in places], row.bold) for row in self.rows],
                rule=fit("─")[0],
            )
            if grid.least_width <= room:
                yield from grid.lines(room)
                return
        for row in self.rows:
            yield from self._stacked([fit(cell) for cell in row.cells], row.bold, fit, room)

    def _choices(self) -> Iterator[list[int]]:
        """Which columns are shown: all, and then without spare ones, the last of them first."""
        places = [*range(len(self.columns))]
        yield places
        for place in reversed(places):
            if self.columns[place].spare:
                places = [other for other in places if other != place]
                yield places

    def _stacked(
        self, cells: Sequence[str], bold: bool, fit: Callable[[str], str], room: int
    ) -> Iterator[Text]:
        """A row as a name with its figures below it."""
        yield _line(cells[0], "bold" if bold else "")
        width = room - len(_GAP)
        figures: list[str] = []
        sentences: list[str] = []
        for column, cell in zip(self.columns[1:], cells[1:], strict=True):
            pair = [" ".join(text.split()) for text in (fit(column.title), cell)]
            text = " ".join(filter(None, pair))
            if cell and column.prose:
                sentences.append(text)
            elif cell:
                figures += [text] if cell_len(text) <= width else pair
        for line in _flow(figures, width):
            yield _line(_GAP + line)
        for sentence in sentences:
            yield from map(_line, _wrapped(sentence, room, indent=_GAP))


@dataclass(frozen=True)
class _Grid:
    """The rows side by side, in the characters that the terminal has."""

    columns: Sequence[Column]
    titles: Sequence[str]
    rows: Sequence[_Row]
    rule: str

    @property
    def least_width(self) -> int:
        """With sentences as narrow as they can be."""
        return sum(self._widths()) + len(_GAP) * (len(self.columns) - 1)

    def lines(self, room: int) -> Iterator[Text]:
        """The titles, a rule and the rows in so much room."""
        widths = self._widths()
        if self.columns[-1].prose:
            widths[-1] = min(self._natural(-1), widths[-1] + room - self.least_width)
        yield from self._row(self.titles, widths, "bold")
        yield _line(self.rule * (sum(widths) + len(_GAP) * (len(widths) - 1)))
        for row in self.rows:
            yield from self._row(row.cells, widths, "bold" if row.bold else "")

    def _widths(self) -> list[int]:
        widths = [self._natural(place) for place in range(len(self.columns))]
        if self.columns[-1].prose:
            words = (word for row in self.rows for word in row.cells[-1].split())
            longest = max(map(cell_len, words), default=0)
            widths[-1] = min(widths[-1], max(_LEAST_PROSE, longest))
        return widths

    def _natural(self, place: int) -> int:
        texts = (self.titles[place], *(row.cells[place] for row in self.rows))
        return max(cell_len(line) for text in texts for line in text.split("\n"))

    def _row(self, cells: Sequence[str], widths: Sequence[int], style: str) -> Iterator[Text]:
        split = [cell.split("\n") for cell in cells]
        if self.columns[-1].prose:
            split[-1] = _wrapped(cells[-1], widths[-1])
        for index in range(max(map(len, split))):
            parts = (lines[index] if index < len(lines) else "" for lines in split)
            placed = map(_placed, self.columns, parts, widths)
            yield _line(_GAP.join(placed).rstrip(), style)


def _placed(column: Column, text: str, width: int) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if column.right else text + blank


def _flow(parts: Sequence[str], room: int) -> Iterator[str]:
    """Parts that stay whole, as many to a line as there is room for."""
    line = ""
    for part in parts:
        if line and cell_len(line + _GAP + part) > room:
            yield line
            line = ""
        line += (_GAP if line else "") + part
    if line:
        yield line


def _wrapped(text: str, room: int, indent: str = "") -> list[str]:
    """Sentences in lines, broken between words alone."""
    width = max(room, len(indent) + 1)
    return wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ignore")
