"""The page is that of the records, and the README's figures are in them."""

import json
import re
from pathlib import Path

from benchmarks.leaderboard import PAGE, ROOT, WORDS, add, page, records

SHARES = {"half": 0.5, "a quarter": 0.25, "13 %": 0.13}
WAYS = ("expedite", "calibrated", "paper, τ auto")


def test_the_page_is_that_of_the_records() -> None:
    found = records()
    assert PAGE.read_text(encoding="utf-8") == page(found)
    assert found
    assert all(record[word] for record in found for word in WORDS)


def test_figures_of_the_readme_are_in_the_records() -> None:
    record = json.loads((ROOT / "results/upernet-camvid.json").read_text(encoding="utf-8"))
    points = {(point["way"], point["keep"]): point for point in record["points"]}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (half|a quarter|13 %) \| (\S+) \|(.*)\|$", readme, re.MULTILINE)
    assert [share for share, _, _ in rows] == list(SHARES)
    for share, gflops, cells in rows:
        of_share = [points[way, SHARES[share]] for way in WAYS]
        assert gflops == f"{of_share[0]['gflops']:.1f}"
        told = [f"{point['lost']:.1f} ({point['error']:.1f})" for point in of_share]
        assert [cell.strip() for cell in cells.split("|")] == told


def test_the_best_comes_first_and_a_record_keeps_its_words(tmp_path: Path) -> None:
    of_all = {"alpha": 3, "keep": 0.5, "gflops": 10.0, "spread": 0.1}
    points = [{**of_all, "way": way, "error": e, "lost": e} for way, e in (("a", 2.0), ("b", 1.0))]
    (tmp_path / "accuracy.json").write_text(json.dumps({"one": points}))
    words = {word: word.upper() for word in WORDS}
    (tmp_path / "record.json").write_text(json.dumps(words))
    add(tmp_path / "accuracy.json", "one", tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert {word: record[word] for word in WORDS} == words
    assert record["points"] == points
    text = page([record])
    assert text.index("| b |") < text.index("| a |")
    assert "| 3 | 50% | b | 10.00 | 1.00 ± 0.10 | – |" in text
