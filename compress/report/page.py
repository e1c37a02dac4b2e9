"""``report.html``: one file that opens anywhere, without a script, a font or a picture from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.report import plots, sections
from compress.report.cells import MISSING, REFERENCE, ROW_LABELS, ROW_NOTES, SENSOR_LABELS, significant
from compress.report.examples import Example
from compress.report.record import ROW_NAMES, MeasuredBy, Report
from compress.report.verdict import verdict

JSON_NAME, HTML_NAME = "report.json", "report.html"
_MEASURES: dict[MeasuredBy, str] = {"onnxruntime": "ONNX Runtime", "pytorch simulation": "INT8 simulated in PyTorch"}


def write_report(folder: Path, report: Report, examples: Sequence[Example] = ()) -> None:
    """Write ``report.json`` and ``report.html`` into ``folder``; equal inputs give equal bytes.

    Args:
        folder: An existing folder.
        report: Its ``examples`` are replaced by the records of ``examples``.
        examples: Images to show with float's and INT8's detections.

    Raises:
        BabelRSError: A field is of a wrong type, a number is NaN or infinite, or a file cannot be written.
    """
    given = {**report.to_dict(), "examples": [one.record().to_dict() for one in examples]}
    text = Report.from_dict(given).to_json()
    page = render(Report.from_dict(json.loads(text)), examples)  # of what the file has, and nothing else
    for name, content in ((JSON_NAME, text), (HTML_NAME, page)):
        try:
            (folder / name).write_bytes(content.encode())
        except OSError as error:
            raise BabelRSError(f"{folder / name}: cannot be written ({error.strerror}).", "Free some space.") from None


def render(report: Report, examples: Sequence[Example]) -> str:
    """The page as text.

    Args:
        report: As parsed from ``report.json``.
        examples: The pictures to its ``examples``.
    """
    report = replace(report, rows=tuple(sorted(report.rows, key=lambda row: ROW_NAMES.index(row.name))))
    return _environment().from_string(_source("page.html.j2")).render(
        report=report,
        css=Markup(_source("page.css")),
        verdict=verdict(report),
        columns=sections.table_columns(report),
        rows=sections.table_rows(report),
        measured_by=sorted({_MEASURES[row.measured_by] for row in report.rows}),
        shares=sections.precision_shares(report.parts),
        parts=sections.part_rows(report),
        apart=sections.ranges_apart(report.ranges),
        calibrators=sections.calibrator_rows(report),
        calibrator_titles=sections.calibrator_titles(report),
        plots=_plots(report),
        examples=examples,
        settings=[(key, _setting(value)) for key, value in sorted(report.settings.items())],
    )  # fmt: skip


def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        len=len, sum=sum, MISSING=MISSING, MEASURES=_MEASURES, PRECISION_LABELS=sections.PRECISION_LABELS,
        ROW_LABELS=ROW_LABELS, ROW_NOTES=ROW_NOTES, SENSORS=list(Sensor), SENSOR_LABELS=SENSOR_LABELS,
    )  # fmt: skip
    environment.filters.update(significant=significant, breakable=_breakable, thousands=_thousands)
    return environment


def _breakable(name: str) -> Markup:
    """A dotted name that may break after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _plots(report: Report) -> dict[str, list[Markup]]:
    """The pictures of every section; an empty list where there is nothing to draw."""
    accuracy = [plots.accuracy_plot(report, sensor) for sensor in report.sensors]
    if report.row(REFERENCE) and len(report.rows) > 1:
        accuracy.append(plots.losses_plot(report))
    costs = []
    if any(row.size_bytes is not None for row in report.rows):
        costs.append(plots.size_plot(report.rows, report.final))
    if any(row.latency_ms for row in report.rows):
        costs.append(plots.latency_plot(report.rows, report.sensors))
    drawn = {
        "accuracy": accuracy,
        "costs": costs,
        "calibrators": plots.calibrator_plots(report),
        "ranges": [plots.ranges_plot(report.ranges), plots.ratio_plot(report.ranges)] if report.ranges else [],
    }
    return {section: [Markup(picture) for picture in pictures] for section, pictures in drawn.items()}


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
