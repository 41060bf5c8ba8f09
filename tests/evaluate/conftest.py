import pytest

from tests.counted import COUNTING, counted_once


@pytest.fixture(autouse=True)
def counts_of_old(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COUNTING:
        monkeypatch.setattr(name, counted_once)
