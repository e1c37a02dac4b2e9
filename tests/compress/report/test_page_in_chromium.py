"""The page in a real browser: nothing to complain about, nothing fetched, and every number where it should be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from compress.report.page import write_report
from tests.compress.report.browser import Browser, find_chromium
from tests.compress.report.builders import sample_examples, sample_report
from tests.compress.report.page_reader import shows

PHONE_PX, DESKTOP_PX = 375, 1280
NUMBERS = """[...document.querySelectorAll("table.rows td[data-path]")].map(cell => [
    cell.closest("tr").dataset.row, cell.dataset.path, cell.dataset.value,
    cell.querySelector(".value").innerText.trim()])"""
SMALLEST_LETTERS = """Math.min(...[...document.querySelectorAll("svg.plot text")].map(text =>
    parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getCTM().a, text.getCTM().b)))"""
COLOURS = """(() => {
    const all = place => [...document.querySelectorAll(place)];
    const of = (place, name) => [...new Set(all(place).map(part => getComputedStyle(part)[name]))];
    return {page: of("body", "backgroundColor"), section: of("section", "backgroundColor"),
            words: of("section :is(p, td, th, dt, dd, summary, h2)", "color"), plots: of("svg.plot text", "fill")};
})()"""
SIDEWAYS = """[...document.querySelectorAll("html, .scroll, section > table, .plots table")].filter(part =>
    part.scrollWidth > part.clientWidth + 1).map(part => part.outerHTML.slice(0, 80))"""
LEFT_OUT = """[...document.querySelectorAll("section, figure, svg, img, table")].filter(part =>
    !part.closest("details") && (part.getBoundingClientRect().width < 20 || part.getBoundingClientRect().height < 20)
    ).map(part => part.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on PATH: install the system package chromium")
    with Browser(program, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report")
    write_report(written, sample_report(), sample_examples())
    return written


def number_in(values: dict[str, Any], row: str, path: str) -> Any:
    found = next(one for one in values["rows"] if one["name"] == row)
    for key in path.split("/"):
        found = found[key]
    return found


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
def test_the_tables_numbers_are_report_jsons(browser: Browser, folder: Path, width: int) -> None:
    browser.open(folder / "report.html", width=width, phone=width == PHONE_PX)
    values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = browser.evaluate(NUMBERS)
    assert len(found) == 6 * 13
    for row, path, value, text in found:
        expected = number_in(values, row, path)
        assert float(value) == expected and shows(path, expected, text), (row, path)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
def test_no_complaint_nothing_fetched_nothing_cut_off(
    browser: Browser, folder: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.open(folder / "report.html", width=width, dark=dark, phone=width == PHONE_PX)
    assert browser.complaints() == []
    assert browser.requests() == [(folder / "report.html").resolve().as_uri()]
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(SIDEWAYS) == [] and browser.evaluate(LEFT_OUT) == []
    browser.screenshot(tmp_path / "page.png")
    picture = cv2.imread(str(tmp_path / "page.png"))
    assert picture is not None and picture.shape[1] == width and picture.shape[0] > 3000
    assert (picture.mean() < 100) == dark and picture.std() > 20


def test_a_fault_in_the_page_would_be_seen(browser: Browser, folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    faults = {
        "script": "<script>undefined.x</script>",
        "foreign": '<img src="https://example.invalid/a.png">',
        "path": '<svg><path d="M 1 x"/></svg>',
    }
    for name, fault in faults.items():
        (tmp_path / f"{name}.html").write_text(text.replace("</main>", f"{fault}</main>"), encoding="utf-8")
        browser.open(tmp_path / f"{name}.html")
        assert browser.complaints(), name


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_plots_have_the_contrast_that_wcag_asks_for(browser: Browser, folder: Path, dark: bool) -> None:
    browser.open(folder / "report.html", dark=dark)
    colours = browser.evaluate(COLOURS)
    assert (luminance(colours["page"][0]) < 0.1) == dark
    (section,) = map(luminance, colours["section"])
    for colour in colours["words"] + colours["plots"]:
        low, high = sorted([luminance(colour), section])
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


@pytest.mark.parametrize("width", [DESKTOP_PX, PHONE_PX])
def test_letters_in_plots_can_be_read(browser: Browser, folder: Path, width: int) -> None:
    browser.open(folder / "report.html", width=width, phone=width == PHONE_PX)
    assert browser.evaluate(SMALLEST_LETTERS) >= 6.5


def test_it_prints_on_a_few_pages(browser: Browser, folder: Path, tmp_path: Path) -> None:
    browser.open(folder / "report.html", dark=True)
    browser.print(tmp_path / "page.pdf")
    document = (tmp_path / "page.pdf").read_bytes()
    assert document.startswith(b"%PDF-") and 3 <= document.count(b"/Type /Page\n") <= 12
