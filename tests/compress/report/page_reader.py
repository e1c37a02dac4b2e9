"""What stands in a page, read by Python's own parser."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from html.parser import HTMLParser

MINUS = "\N{MINUS SIGN}"
DIGITS = {"h_map": 2, "size_bytes": 2}
FACTORS = {"size_bytes": Decimal("1e-6")}


@dataclass
class Number:
    """One cell of the table of rows: row and path of its number, the number and what is shown of it."""

    row: str
    path: str
    value: str
    text: str = ""
    change: str = ""
    best: bool = False


@dataclass
class PageReader(HTMLParser):
    """Numbers of the table of rows, all tags, identifiers and addresses, the text and the source."""

    numbers: list[Number] = field(default_factory=list)
    tags: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    addresses: list[str] = field(default_factory=list)
    text: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._row, self._kind = "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        found = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.ids.update([found["id"]] if "id" in found else [])
        self.addresses += [found[name] for name in ("src", "href", "xlink:href", "srcset", "data") if name in found]
        if tag == "tr":
            self._row = found.get("data-row", "")
        elif tag == "td" and "data-path" in found:
            best = found.get("class") == "best"
            self.numbers.append(Number(self._row, found["data-path"], found["data-value"], best=best))
        elif tag == "span":
            self._kind = found.get("class", "").partition(" ")[0]

    def handle_endtag(self, tag: str) -> None:
        """End a tag."""
        if tag == "span":
            self._kind = ""

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data
        if self._kind in ("value", "change") and self.numbers and self._row:
            number = self.numbers[-1]
            if self._kind == "value":
                number.text += data
            else:
                number.change += data


def read_page(text: str) -> PageReader:
    """Parse a page."""
    reader = PageReader(source=text)
    reader.feed(text)
    reader.close()
    return reader


def shows(path: str, value: float, text: str) -> bool:
    """Whether ``text`` is ``value`` in the column's unit, rounded to the column's digits, in exact arithmetic."""
    default = Decimal(1) if path.startswith("latency") else Decimal(100)
    exact = Decimal(value) * FACTORS.get(path, default)
    digits = DIGITS.get(path, 1)
    shown = Decimal(text)
    return -int(shown.as_tuple().exponent) == digits and abs(shown - exact) <= Decimal(5).scaleb(-digits - 1)
