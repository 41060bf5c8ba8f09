import io

import pytest
from rich.console import Console

from expedite.terminal.console import write
from expedite.terminal.table import Column, Listing
from expedite.terminal.text import SUBSTITUTE

NAMES = [
    "segmenter-vit-l16-ade20k",
    "a-name-of-more-than-forty-characters-in-all",
    "[bold]x[/bold]",
]


def table() -> Listing:
    columns = [Column("name"), Column("GFLOPs", right=True), Column("file", spare=True)]
    found = Listing([*columns, Column("", prose=True)], title="all [of] them")
    for name in NAMES:
        found.add(name, "443.84", "checkpoint.pth", "a sentence of a few words")
    return found


def shown(part: Listing | str, width: int, encoding: str = "utf-8") -> list[str]:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding, SUBSTITUTE, write_through=True)
    write(Console(file=file, width=width, markup=True), part)
    return written.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 1000])
def test_names_and_figures_are_whole_and_words_too(width: int) -> None:
    text = "\n".join(shown(table(), width))
    for part in (*NAMES, "all [of] them"):
        assert part in text
    assert text.count("443.84") == len(NAMES)
    for word in ("sentence", "words"):
        assert text.count(word) == len(NAMES)


def test_only_what_is_longer_than_a_line_goes_beyond_it() -> None:
    for width in (40, 60, 80, 100):
        assert all(len(line) <= width or line in NAMES for line in shown(table(), width))


def test_spare_columns_are_left_out_before_names_get_lines_of_their_own() -> None:
    wide, less, least = (shown(table(), width) for width in (120, 85, 60))
    assert wide[1].split() == ["name", "GFLOPs", "file"]
    assert less[1].split() == ["name", "GFLOPs"]
    assert least[1:3] == [NAMES[0], "  GFLOPs 443.84  file checkpoint.pth"]


def test_figures_stand_below_each_other_in_any_encoding() -> None:
    found = Listing([Column("plan"), Column("δ<1.25", right=True)])
    found.add("α4 20x20", "45.65")
    found.add("unpatched", "7.10")
    for encoding in ("utf-8", "cp1252", "ascii"):
        title, rule, *rows, _ = shown(found, 80, encoding)
        assert {len(line) for line in (title, rule, *rows)} == {len(rule)}
    assert title == "plan          delta<1.25"
    assert rule == "-" * len(title)


def test_cells_of_several_lines_and_rows_in_bold() -> None:
    found = Listing([Column("plan"), Column("mIoU\n%", right=True)])
    found.add("a\nb", "50.00 → 49.00\n-1.00", bold=True)
    assert [line.rstrip() for line in shown(found, 40)] == [
        "plan           mIoU",
        "                  %",
        "───────────────────",
        "a\\nb  50.00 → 49.00",
        "              -1.00",
        "",
    ]
    file = io.StringIO()
    Console(file=file, width=40, force_terminal=True, color_system="standard").print(found)
    assert "\x1b[1ma\\nb" in file.getvalue()


def test_nothing_in_text_is_markup_or_steers() -> None:
    assert shown("[red]a[/nonsense] :smile: \x1b[2J", 10) == ["[red]a[/nonsense] :smile: \\x1b[2J"]
    found = Listing([Column("x")])
    found.add("\x1b]0;title\x07")
    assert "\\x1b]0;title\\x07" in shown(found, 80)
