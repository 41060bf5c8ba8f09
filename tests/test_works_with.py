"""docs/works_with.md says of every way what is found here."""

import pytest

from tests.ways import DOCS, WAYS, Way, line

QUICK = [way for way in WAYS if not way.is_slow]


@pytest.mark.filterwarnings("ignore")  # of what is old or new in PyTorch and the libraries
@pytest.mark.parametrize("way", QUICK, ids=lambda way: way.name)
def test_docs_say_what_is_found(way: Way) -> None:
    if way.needs:
        pytest.importorskip(way.needs)
    assert line(way) in DOCS.read_text(), "python -m benchmarks.works_with writes it anew"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_way_stands_in_the_docs(way: Way) -> None:
    assert f"| {way.name} |" in DOCS.read_text()
