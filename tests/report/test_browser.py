"""The page as people see it: driven in headless Chromium, where one is installed.

`make test-browser` says what that takes.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expedite.drawing.panels import Panel, draw_sheet
from expedite.evaluate.comparators import plan_of
from expedite.evaluate.results import Results
from expedite.report.report import Section, write_report
from tests.evaluate.rows import ROWS, depth_results

webdriver: Any = pytest.importorskip("selenium.webdriver")
KEYS: Any = pytest.importorskip("selenium.webdriver.common.keys").Keys

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Debian's chromium-driver is missing"),
    # Of selenium's own: sockets that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
PLANS = ["unpatched", "α1 4x4", "α2 4x4", "α1 5x5", "α2 6x6", "pool α1 3x3", "tome α1 3x3"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two sweeps: one of three methods and one of depth."""
    folder = tmp_path_factory.mktemp("report")
    rivals = [
        replace(ROWS[4], plan=plan_of(name, 1, 3), gflops=gflops, fps=3.5, metrics={"miou": 0.4})
        for name, gflops in (("pool", 2.0), ("tome", 12.0))
    ]
    sheet = draw_sheet([[Panel("x", "t", "c", np.zeros((60, 90, 3), np.uint8))]], "a scene")
    (folder / "picture.png").write_bytes(sheet)
    first = Results({"model": "segmenter:x"}, "segmentation", rows=[*ROWS, *rivals])
    sections = [Section(first, folder), Section(depth_results(), folder / "depth")]
    return write_report(folder, sections)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The page, freshly opened from its file; in the end the console must be silent."""
    browser.set_window_size(1280, 900)
    browser.get(report.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def found(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def column(page: Any, index: int) -> list[str]:
    """The texts of a column of the first table, from the top."""
    selector = f"section:first-of-type tbody tr > :nth-child({index})"
    return [cell.text for cell in found(page, selector)]


def header(page: Any, index: int) -> Any:
    return found(page, f"section:first-of-type th:nth-child({index}) button")[0]


def tip(page: Any) -> list[str]:
    """What is said of a point, line by line; nothing where it is hidden."""
    (element,) = found(page, "#tip")
    return [str(line) for line in element.text.splitlines()]


def hover(page: Any, element: Any) -> None:
    webdriver.ActionChains(page).move_to_element(element).perform()


def test_everything_is_drawn(page: Any) -> None:
    assert page.title == "expedite: segmenter:x, dpt:x"
    assert column(page, 1) == PLANS
    assert len(found(page, "svg.chart")) == 2 + 4
    for element in found(page, "svg.chart, table, img"):
        assert min(element.size.values()) > 40
    for point in found(page, ".point"):
        assert min(point.size.values()) > 5
    (picture,) = found(page, "img")
    assert page.execute_script("return arguments[0].naturalWidth", picture) > 100
    assert tip(page) == []


def test_a_table_sorts_by_the_column_that_is_pressed(page: Any) -> None:
    gflops = ["2.00", "3.00", "5.00", "6.00", "8.00", "10.00", "12.00"]  # and not by letters
    header(page, 3).click()
    assert column(page, 3) == gflops
    assert column(page, 1)[0] == "pool α1 3x3"
    header(page, 3).click()
    assert column(page, 3) == gflops[::-1]
    states = [th.get_attribute("aria-sort") for th in found(page, "section:first-of-type thead th")]
    assert states[2] == "descending"
    assert set(states) == {"descending", "none"}
    header(page, 1).click()
    assert column(page, 1) == [*sorted(PLANS[-2:]), "unpatched", *sorted(PLANS[1:5])]
    assert found(page, "section:last-of-type th[aria-sort=ascending]") == []


def test_numbers_sort_by_their_value_and_words_by_their_letters(page: Any) -> None:
    mixed = ["10", "2.5", "-3", "2.25", "100%", "1.2 to 3", "-0.5"]
    ordered = ["-3", "-0.5", "1.2 to 3", "2.25", "2.5", "10", "100%"]
    assert page.execute_script("return arguments[0].sort(compare)", mixed) == ordered
    plans = ["α2 20x20", "α10 4x4", "evit α2 4x4", "α2 4x4"]
    ordered = ["evit α2 4x4", "α2 4x4", "α2 20x20", "α10 4x4"]
    assert page.execute_script("return arguments[0].sort(compare)", plans) == ordered


def test_a_table_sorts_by_keys(page: Any) -> None:
    button = header(page, 5)
    page.execute_script("arguments[0].focus()", button)
    button.send_keys(KEYS.ENTER)
    fps = [float(text) for text in column(page, 5)]
    assert fps == sorted(fps)
    button.send_keys(KEYS.SPACE)
    assert [float(text) for text in column(page, 5)] == fps[::-1]


def test_pointing_at_a_plan_says_its_figures(page: Any) -> None:
    point = found(page, "section:first-of-type svg.chart .point[data-row='4']")[0]
    hover(page, point)
    lines = tip(page)
    assert lines[0] == "α2 6x6"
    assert lines[lines.index("GFLOPs") + 1] == "3.00"
    assert lines[lines.index("mIoU %") + 1] == "30.00"
    lit = found(page, "tr.on")
    assert [row.get_attribute("data-row") for row in lit] == ["4"]
    chart = found(page, "section:first-of-type svg.chart")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    edge = (10 - chart.size["width"]) // 2
    webdriver.ActionChains(page).move_to_element_with_offset(chart, edge, 0).perform()
    assert tip(page) == []  # where no plan is near
    hover(page, point)
    assert tip(page) == lines
    hover(page, found(page, "h1")[0])
    assert tip(page) == []
    assert found(page, ".on") == []


def test_pointing_at_a_row_lights_its_points(page: Any) -> None:
    header(page, 3).click()  # rows keep their numbers where they stand elsewhere
    hover(page, found(page, "section:first-of-type tbody tr")[0])
    lit = found(page, "section:first-of-type .point.on")
    assert [point.get_attribute("data-row") for point in lit] == ["5", "5"]


def test_a_plot_is_read_by_keys(page: Any) -> None:
    chart = found(page, "section:first-of-type svg.chart")[0]
    page.execute_script("arguments[0].focus()", chart)
    heads = []
    for _ in range(3):
        chart.send_keys(KEYS.ARROW_RIGHT)
        heads.append(tip(page)[0])
    assert heads == ["pool α1 3x3", "α2 6x6", "α1 5x5"]  # by rising GFLOPs
    chart.send_keys(KEYS.ARROW_LEFT)
    assert tip(page)[0] == "α2 6x6"
    chart.send_keys(KEYS.ESCAPE)
    assert tip(page) == []


def set_media(page: Any, **values: str) -> None:
    features = [
        {"name": f"prefers-{name.replace('_', '-')}", "value": value}
        for name, value in values.items()
        if name != "media"
    ]
    command = {"media": values.get("media", ""), "features": features}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", command)


def colours(page: Any, selector: str) -> tuple[list[int], list[int]]:
    """An element's colour and the page's background, (r, g, b) each."""
    script = "return getComputedStyle(arguments[0])[arguments[1]]"
    text = page.execute_script(script, found(page, selector)[0], "color")
    back = page.execute_script(script, found(page, "body")[0], "backgroundColor")
    one, two = ([int(part) for part in each[4:-1].split(",")] for each in (text, back))
    return one, two


def contrast(one: list[int], two: list[int]) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: list[int]) -> float:
        shares = [part / 255 for part in colour]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(one), luminance(two)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("selector", ["h1", "p.muted", "dt", "td"])
def test_light_dark_and_printed_are_readable(page: Any, selector: str) -> None:
    seen = {}
    for name, media in (
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("printed", {"color_scheme": "dark", "media": "print"}),
    ):
        set_media(page, **media)
        seen[name] = colours(page, selector)
        assert contrast(*seen[name]) >= 4.5, name
    set_media(page)
    assert sum(seen["dark"][1]) < 150 < sum(seen["light"][1])
    assert seen["printed"] == seen["light"]


def test_printed_tables_are_as_wide_as_paper(page: Any) -> None:
    """Of A4 and of letter in landscape, without their margins."""
    metrics = {"width": 950, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    set_media(page, media="print")
    wide = page.execute_script("return document.documentElement.scrollWidth")
    set_media(page)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 950


@pytest.mark.parametrize("wide", [320, 390])
def test_on_a_phone_nothing_reaches_beyond_the_page(page: Any, wide: int) -> None:
    metrics = {"width": wide, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    reached = page.execute_script("return document.documentElement.scrollWidth")
    charts = [chart.size["width"] for chart in found(page, "svg.chart")]
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert reached == wide
    assert all(wide - 90 < width < wide for width in charts)
