"""The page shows report.json's numbers, needs nothing but itself, and is the same every time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.parity import Parity
from compress.report.page import write_report
from compress.report.record import CalibratorResult, Limit, RangePoint, Report, Row
from compress.report.verdict import verdict
from tests.compress.report.builders import sample_examples, sample_report, sample_row
from tests.compress.report.page_reader import MINUS, Number, PageReader, read_page, shows


def read(folder: Path) -> tuple[dict[str, Any], PageReader]:
    values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return values, read_page((folder / "report.html").read_text(encoding="utf-8"))


def written(folder: Path, report: Report) -> tuple[dict[str, Any], PageReader]:
    write_report(folder, report)
    return read(folder)


NOTHING: dict[str, Any] = {
    "sensitivity": None, "parts": (), "ranges": (), "calibrators": (), "chosen_calibrator": None,
}  # fmt: skip


def small_report(**changes: Any) -> Report:
    """One sensor, two rows, and little else: quickly drawn."""
    rows = tuple(
        replace(row, sensors={Sensor.SAR: row.sensors[Sensor.SAR]}, latency_ms=None)
        for row in (sample_row("float32"), sample_row("mixed"))
    )
    return sample_report(**{**NOTHING, "rows": rows, **changes})


def number_in(values: dict[str, Any], one: Number) -> Any:
    found = next(row for row in values["rows"] if row["name"] == one.row)
    for key in one.path.split("/"):
        found = None if found is None else found.get(key)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete report with examples."""
    written = tmp_path_factory.mktemp("report")
    write_report(written, sample_report(), sample_examples())
    return written


@pytest.fixture(scope="module")
def page(folder: Path) -> tuple[dict[str, Any], PageReader]:
    return read(folder)


def test_every_number_of_the_table_is_report_jsons(page: tuple[dict[str, Any], PageReader]) -> None:
    values, reader = page
    assert len(reader.numbers) == 6 * 13
    for one in reader.numbers:
        expected = number_in(values, one)
        assert json.loads(one.value) == expected and shows(one.path, expected, one.text), one


def test_changes_are_against_float32(page: tuple[dict[str, Any], PageReader]) -> None:
    values, reader = page
    for one in reader.numbers:
        before = number_in(values, replace(one, row="float32"))
        after = json.loads(one.value)
        if one.row == "float32":
            assert one.change == ""
        elif one.path in ("size_bytes",) or one.path.startswith("latency"):
            assert float(one.change.removeprefix("\N{MULTIPLICATION SIGN}")) == pytest.approx(
                after / before, abs=0.0051
            )
        else:
            shown = 0.0 if one.change == "±0" else float(one.change.replace(MINUS, "-"))
            assert shown == pytest.approx(100 * (after - before), abs=0.0051 if one.path == "h_map" else 0.051)


def test_the_best_of_each_column_is_bold(page: tuple[dict[str, Any], PageReader]) -> None:
    _, reader = page
    for path in {one.path for one in reader.numbers}:
        column = [one for one in reader.numbers if one.path == path]
        least = path == "size_bytes" or path.startswith("latency")
        best = (min if least else max)(float(one.text) for one in column)
        assert [one.best for one in column] == [float(one.text) == best for one in column], path


def test_the_page_refers_to_nothing_outside_itself(page: tuple[dict[str, Any], PageReader]) -> None:
    _, reader = page
    assert reader.addresses and all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert not reader.tags["script"] and reader.tags["link"] == 1  # the empty icon: browsers would ask for one
    assert not re.search(r"@import|url\((?!#)", reader.source)
    assert sum(address.startswith("data:image/jpeg") for address in reader.addresses) == 2 * len(Sensor)


def test_identifiers_are_distinct_and_every_reference_has_its_target(page: tuple[dict[str, Any], PageReader]) -> None:
    _, reader = page
    assert reader.tags["svg"] == 9 and max(reader.ids.values()) == 1
    assert {address[1:] for address in reader.addresses if address.startswith("#")} <= set(reader.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", reader.source)) <= set(reader.ids)


def test_plots_take_their_colours_from_the_page(page: tuple[dict[str, Any], PageReader]) -> None:
    source = page[1].source
    drawn = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    assert not re.search(r"#[0-9a-fA-F]{6}\b", drawn)
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", drawn))
    assert {"ink", "muted", "line", "surface", "rgb", "sar", "ir"} == used
    assert all(source.count(f"--{name}: ") == 3 for name in used)  # light, dark and print


def test_equal_inputs_give_equal_bytes_in_another_process(folder: Path, tmp_path: Path, repository: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from compress.report.page import write_report\n"
        "from tests.compress.report.builders import sample_examples, sample_report\n"
        "write_report(pathlib.Path(sys.argv[1]), sample_report(), sample_examples())\n"
    )
    surroundings = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=repository, env=surroundings)
    for name in ("report.json", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == text
        assert not re.search(r"\b20\d\d-\d\d-\d\d\b|Matplotlib v", text) and str(folder) not in text


def test_the_detections_of_the_examples_are_in_report_json(page: tuple[dict[str, Any], PageReader]) -> None:
    examples = sample_examples()
    assert Report.from_dict(page[0]).examples == tuple(one.record() for one in examples)
    assert [len(one["int8"]) for one in page[0]["examples"]] == [len(one.int8) for one in examples]


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> a & b \"c\" 'd'"
    report = small_report(name=name, settings={name: name}, rows=(sample_row("float32", note=name),), final=None)
    _, reader = written(tmp_path, report)
    assert not reader.tags["script"] and reader.text.count(name) == 5


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (Limit(0.5, 0.3199, True), "H-mAP falls by 0.32 points, within the limit of 0.50"),
        (Limit(0.5, -0.1201, True), "H-mAP rises by 0.12 points, within the limit of 0.50"),
        (Limit(0.5, 0.92, False), "H-mAP falls by 0.92 points, more than the 0.50 allowed"),
        (Limit(0.5, None, False), "Limit missed: H-mAP was not measured to the end"),
    ],
)
def test_the_verdict_says_by_how_much(limit: Limit, sentence: str) -> None:
    found = verdict(sample_report(limit=limit))
    assert found.headline == sentence and found.met == limit.met
    assert found.used is None if limit.drop is None else found.used == pytest.approx(max(0.0, 100 * limit.drop))


def test_the_verdict_has_the_numbers_of_the_bundle() -> None:
    report = sample_report(parity={Sensor.SAR: Parity(55, 55), Sensor.IR: Parity(43, 45)})
    facts = {label: f"{value} {remark}" for label, value, remark in verdict(report).facts}
    assert facts["H-mAP"] == "30.16 % float32 30.48 %" and facts["size"] == "3.15 MB 0.29 of float32's"
    weights = {part.name: part.num_weights for part in report.parts}
    share = 1 - sum(weights[name] for name in ("stem.0", "blocks.0", "heads")) / sum(weights.values())
    assert facts["weights in INT8"] == f"{100 * share:.1f} % in float: stem.0, blocks.0, heads"
    assert facts["latency"] == "\N{MULTIPLICATION SIGN}0.55 of float32's at most; RGB 33.8, SAR 18.1, IR 21.9 ms"
    assert facts["detections as measured"] == "98.0 % by the graphs in ONNX Runtime: SAR 55 of 55, IR 43 of 45"
    assert "detections as measured" not in {label for label, *_ in verdict(sample_report()).facts}
    assert "No bundle was written" in verdict(sample_report(final=None)).detail


SIMULATED = tuple(
    sample_row(name, size_bytes=None, latency_ms=None, measured_by="pytorch simulation")
    for name in ("float32", "pooled")
)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"rows": (), "final": None}, ("Accuracy and cost", "Size and latency", "Lost against float32,")),
        ({"rows": SIMULATED, "final": None}, ("Size and latency", "ONNX Runtime", "MB")),
        (NOTHING, ("Activation ranges", "Calibrators", "What is INT8", "when this part alone is INT8")),
        ({"ranges": (RangePoint("a.b", "a", {Sensor.SAR: 0.0}),)}, ("Where the sensors differ most",)),
    ],
)
def test_what_was_not_measured_is_left_out(
    tmp_path: Path, page: tuple[dict[str, Any], PageReader], changes: dict[str, Any], absent: tuple[str, ...]
) -> None:
    values, reader = written(tmp_path, sample_report(**changes))
    assert all(text in page[1].text and text not in reader.text for text in absent)
    assert all(json.loads(one.value or "null") == number_in(values, one) for one in reader.numbers)


def test_missing_numbers_are_dashes(tmp_path: Path) -> None:
    rows: tuple[Row, ...] = (sample_row("float32"), sample_row("mixed", size_bytes=None, latency_ms={Sensor.SAR: 2.0}))
    _, reader = written(tmp_path, small_report(rows=rows))
    dashes = {one.path for one in reader.numbers if one.text == "\N{EN DASH}"}
    assert dashes == {"size_bytes", "latency_ms/rgb", "latency_ms/ir"}


def test_rows_stand_in_their_order_whatever_was_measured_first(tmp_path: Path) -> None:
    rows = tuple(sample_row(name) for name in ("mixed", "pooled", "float32"))
    _, reader = written(tmp_path, small_report(rows=rows))
    assert list(dict.fromkeys(one.row for one in reader.numbers)) == ["float32", "pooled", "mixed"]


def test_calibrators_without_accuracy_are_compared_by_their_error(tmp_path: Path) -> None:
    calibrators = (CalibratorResult("max", error=0.25), CalibratorResult("mse", error=0.125))
    _, reader = written(tmp_path, small_report(calibrators=calibrators, chosen_calibrator="mse"))
    assert "output error" in reader.text and "0.250" in reader.text and "0.125" in reader.text


def test_a_model_of_one_sensor_has_a_page(tmp_path: Path) -> None:
    _, reader = written(tmp_path, small_report())
    assert {one.path.split("/")[1] for one in reader.numbers if one.path.startswith("sensors")} == {"sar"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match=r"nowhere.report\.json: cannot be written"):
        write_report(tmp_path / "nowhere", small_report())


def test_a_number_that_is_none_is_refused_by_place(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match=r"rows\.0\.h_map"):
        write_report(tmp_path, sample_report(rows=(sample_row("float32", h_map=float("nan")),), final=None))
    assert not list(tmp_path.iterdir())
