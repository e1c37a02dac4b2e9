"""One pair of axes as SVG that takes its colours from the page: light and dark from one picture."""

from __future__ import annotations

import io
import re
from typing import Any

from babelrs.sensors import Sensor
from train.run_plots import COLOURS

# Stand-ins, each replaced by the page's colour of that name.
INK, MUTED, LINE, SURFACE = "#010203", "#040506", "#070809", "#0a0b0c"
_WIDTH_IN = 4.5
_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: searchable, and of the page's font
    "svg.hashsalt": "babelrs",  # equal plots have equal identifiers
    "font.family": "DejaVu Sans",  # matplotlib's own, so that the layout is the same on every machine
    "font.size": 8.3,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


class Canvas:
    """One pair of axes in the page's style; written when the context ends.

    Args:
        name: What the identifiers in the picture begin with, so that no two on a page are equal.
        height_in: Height at a width of 4.5 inches; the page scales both.
    """

    def __init__(self, name: str, height_in: float) -> None:
        import matplotlib

        self._name, self._height_in, self._context = name, height_in, matplotlib.rc_context(_STYLE)

    def __enter__(self) -> Canvas:
        from matplotlib.figure import Figure

        self._context.__enter__()
        self.figure = Figure(figsize=(_WIDTH_IN, self._height_in), layout="constrained")
        self.axes = self.figure.add_subplot()
        return self

    def __exit__(self, *raised: Any) -> None:
        try:
            if raised[0] is None:
                self._text = self._written()
        finally:
            self._context.__exit__(*raised)

    def _written(self) -> str:
        stream = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # no date, no version: equal bytes
        self.figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
        return stream.getvalue()

    def svg(self, description: str) -> str:
        """The picture for use within HTML, its identifiers and colours made the page's."""
        text = self._text[self._text.index("<svg") :]
        text = re.sub(r'\bid="', f'id="{self._name}-', text)
        text = re.sub(r'(url\(#|href="#)', rf"\g<1>{self._name}-", text)
        for colour, name in _page_colours().items():
            text = text.replace(colour, f"var(--{name})")
        box = re.search(r'viewBox="[^"]+"', text)
        assert box is not None, "matplotlib writes a viewBox"
        head = f'<svg class="plot" {box[0]} role="img" aria-label="{description}" xmlns:xlink="http://www.w3.org/1999/xlink">'
        return head + text[text.index(">") + 1 :].strip()


def _page_colours() -> dict[str, str]:
    from matplotlib.colors import to_hex

    sensors = {to_hex(COLOURS[sensor.value]): sensor.value for sensor in Sensor}
    return {INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface", **sensors}
