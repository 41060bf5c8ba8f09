import io
import re
import sys
from pathlib import Path

import pytest

import expedite
from expedite.terminal.text import SUBSTITUTE, clean, clean_line, fitted, use_substitutes

# Every symbol that stands somewhere in the package's own text.
SYMBOLS = "αβγδεκλμπτΔΣ×·−→√‖…½²³─━"


@pytest.mark.parametrize("character", [*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e"])
def test_nothing_steers_the_terminal(character: str) -> None:
    text = f"a{character}b"
    kept = "\t\n" if character in "\t\n" else ""
    assert all(c.isprintable() or c in kept for c in clean(text))
    assert clean_line(text).isprintable()
    assert clean_line(text) == f"a{character!r:.9}b".replace("'", "").replace("\\x", "\\x")


def test_other_text_stays_as_it_is() -> None:
    text = "α4 20×20, [bold]語[/] é \\x1b"
    assert clean_line(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "cp932", "latin-1"])
def test_every_encoding_gets_everything(encoding: str) -> None:
    for symbol in SYMBOLS:
        found = fitted(symbol, encoding)
        assert found.isprintable()
        assert "\\" not in found
    assert fitted("café 語 \udcff", "ascii") == "caf\\xe9 \\u8a9e \\udcff"


def test_every_symbol_of_the_package_can_be_read_in_ascii() -> None:
    names = ("cli", "report", "measure", "exporting", "patching", "recipes", "terminal")
    root = Path(expedite.__file__).parent
    shown = "".join(p.read_text("utf-8") for name in names for p in (root / name).rglob("*.py"))
    for symbol in set(re.findall(r"[^\x00-\x7f]", shown)) & set(SYMBOLS):
        assert "\\" not in fitted(symbol, "ascii")


@pytest.mark.parametrize(
    ("errors", "expected"), [("strict", b"alpha -> \\u8a9e"), ("replace", b"? ? ?")]
)
def test_standard_streams_take_substitutes_unless_told_otherwise(
    errors: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, raw in written.items():
        stream = io.TextIOWrapper(raw, "ascii", errors, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    use_substitutes()
    for name, raw in written.items():
        getattr(sys, name).write("α → 語")
        assert raw.getvalue() == expected


def test_reading_is_not_what_substitutes_are_for() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", SUBSTITUTE)
