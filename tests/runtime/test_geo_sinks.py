"""GeoJSON and CSV are valid after every image, and other programs read from them what was found."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.boxes import to_corners
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.geo import Floats, Places, measure
from runtime.pipeline import FrameResult
from runtime.sinks.csv import HEADER, CsvSink
from runtime.sinks.geojson import GeoJsonSink, geometry
from runtime.sinks.image import annotate
from runtime.sinks.jsonl import frame_record
from tests.runtime.results import BOXES, TIME, TIMES_MS, detections_of


def flat_places(boxes: np.ndarray[Any, Any], east: float = 11.0, north: float = 48.0) -> Places:
    """A north-up image of 1e-5 degrees a pixel."""
    lonlat = to_corners(boxes) * [1e-5, -1e-5] + [east, north]
    lonlat[..., 0] = (lonlat[..., 0] + 180) % 360 - 180
    return Places(lonlat, *measure(lonlat))


def result(
    boxes: list[list[float]], frame: int = 0, places: bool = True, east: float = 11.0, source: str = "in/ü,\n.tif"
) -> FrameResult:
    found = detections_of(boxes, ("ship", 'small "vehicle"'), Sensor.SAR)
    where = flat_places(found.boxes, east) if places else None
    return FrameResult(source, str(frame), frame, TIME, found, None, "toy", "fp32", TIMES_MS, (160, 120), where)


def test_the_collection_is_valid_after_every_image(tmp_path: Path) -> None:
    sink, path = GeoJsonSink(tmp_path / "d.geojson"), tmp_path / "d.geojson"
    for number, boxes in enumerate([[], BOXES, [], BOXES * 20, BOXES[:1]]):
        collection = json.loads(path.read_text())
        assert collection["type"] == "FeatureCollection" and set(collection) == {"type", "features"}
        sink.write(result(boxes, number))
    sink.close()
    features = json.loads(path.read_text())["features"]
    assert [feature["properties"]["frame"] for feature in features] == [1] * 2 + [3] * 40 + [4]
    properties = features[0]["properties"]
    assert {key: properties[key] for key in ("label", "score", "sensor", "source", "frame", "time")} == {
        "label": "ship",
        "score": pytest.approx(0.9),
        "sensor": "sar",
        "source": "in/ü,\n.tif",
        "frame": 1,
        "time": "2026-01-01T00:00:00.000+00:00",
    }
    assert properties["obb"] == pytest.approx(BOXES[0]) and 0 <= properties["heading_deg"] < 180
    assert properties["length_m"] > properties["width_m"] > 0


def test_an_independent_reader_finds_the_polygons(tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio", reason="the oracle is GDAL's GeoJSON driver")
    shapely = pytest.importorskip("shapely", reason="the oracle reads geometries with it")
    sink = GeoJsonSink(tmp_path / "d.geojson")
    sink.write(result(BOXES))
    sink.write(result(BOXES[:1], 1, east=180.0 - 60e-5))
    sink.close()
    meta, _, shapes, fields = pyogrio.raw.read(tmp_path / "d.geojson")
    columns = dict(zip(meta["fields"], fields, strict=True))
    polygons = shapely.from_wkb(shapes)
    assert meta["crs"] == "EPSG:4326" and columns["label"].tolist() == ["ship", 'small "vehicle"', "ship"]
    assert [polygon.geom_type for polygon in polygons] == ["Polygon", "Polygon", "MultiPolygon"]
    assert all(polygon.is_valid and shapely.is_ccw(polygon.exterior) for polygon in polygons[:2])
    expected = [shapely.Polygon(corners) for corners in result(BOXES).places.lonlat]  # type: ignore[union-attr]
    assert all(
        polygon.symmetric_difference(one).area < 1e-3 * one.area
        for polygon, one in zip(polygons[:2], expected, strict=True)
    )
    assert polygons[2].area == pytest.approx(expected[0].area, rel=1e-2)


@given(
    st.floats(-180, 180), st.floats(-80, 80), st.floats(1e-4, 5.0), st.floats(0.05, 1), st.floats(0, 7), st.booleans()
)
def test_polygons_are_counter_clockwise_closed_and_split_at_the_antimeridian(
    lon: float, lat: float, size: float, aspect: float, turn: float, backwards: bool
) -> None:
    shapely = pytest.importorskip("shapely", reason="the oracle computes areas and orientation")
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [size, size * aspect] / 2
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    flat = corners @ rotation.T + [lon, lat]
    folded: Floats = np.stack([(flat[:, 0] + 180) % 360 - 180, flat[:, 1]], axis=1)[:: -1 if backwards else 1]
    found = geometry(folded)
    assert found is not None
    parts = [found["coordinates"]] if found["type"] == "Polygon" else found["coordinates"]
    polygons = [shapely.Polygon(rings[0]) for rings in parts]
    for (ring,), polygon in zip(parts, polygons, strict=True):
        assert ring[0] == ring[-1] and len(ring) >= 4
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in ring)
        assert shapely.is_ccw(polygon.exterior) or polygon.area < 1e-6
        assert np.ptp([x for x, _ in ring]) < 180
    assert sum(polygon.area for polygon in polygons) == pytest.approx(size * size * aspect, rel=1e-3, abs=3e-7 * size)
    crosses = (
        flat[:, 0].min() < -180 - 1e-6 < flat[:, 0].max() - 2e-6 or flat[:, 0].max() > 180 + 1e-6 > flat[:, 0].min()
    )
    assert (found["type"] == "MultiPolygon") or not crosses or min(p.area for p in polygons) < 1e-5


def test_images_without_a_place_are_warned_about_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = GeoJsonSink(tmp_path / "d.geojson")
    for number in range(5):
        sink.write(result(BOXES, number, places=number == 2))
    sink.close()
    assert len(json.loads((tmp_path / "d.geojson").read_text())["features"]) == 2
    assert caplog.text.count("no place on Earth is known") == 1
    assert caplog.text.count("4 of 5 images are not in") == 1


def placeless() -> FrameResult:
    """Of two detections, the second lies at a pole."""
    made = result(BOXES)
    assert made.places is not None
    made.places.lonlat[1] = np.nan
    return made


def test_a_detection_without_a_place_is_a_feature_without_geometry(tmp_path: Path) -> None:
    sink = GeoJsonSink(tmp_path / "d.geojson")
    sink.write(placeless())
    first, second = json.loads((tmp_path / "d.geojson").read_text())["features"]
    assert first["geometry"]["type"] == "Polygon"
    assert second["geometry"] is None and second["properties"]["length_m"] is None


def test_json_lines_have_longitude_and_latitude_where_they_are_known() -> None:
    first, second = frame_record(placeless())["detections"]
    assert np.array(first["lonlat"]) == pytest.approx(to_corners(np.array(BOXES[:1]))[0] * [1e-5, -1e-5] + [11, 48])
    assert "lonlat" not in second
    assert all("lonlat" not in one for one in frame_record(result(BOXES, places=False))["detections"])


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    sink, path = CsvSink(tmp_path / "d.csv"), tmp_path / "d.csv"
    assert path.read_text().splitlines() == [",".join(HEADER)]
    for made in (result(BOXES), result([], 1), placeless(), result(BOXES, 3, places=False)):
        sink.write(made)
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    sink.close()
    assert len(rows) == 6 and [row["frame"] for row in rows] == ["0", "0", "0", "0", "3", "3"]
    assert rows[1]["label"] == 'small "vehicle"' and rows[0]["source"] == "in/ü,\n.tif"
    assert [float(rows[0][name]) for name in ("cx", "cy", "w", "h", "theta")] == pytest.approx(BOXES[0])
    assert float(rows[0]["lon1"]) == pytest.approx(11 + 1e-5 * float(rows[0]["x1"]), abs=1e-7)
    assert [row["lat4"] == "" for row in rows] == [False, False, False, True, True, True]
    assert [row["heading_deg"] == "" for row in rows] == [False, False, False, True, True, True]


@pytest.mark.parametrize("module", ["geojson:GeoJsonSink", "csv:CsvSink"])
def test_a_full_disk_leaves_a_valid_file(tmp_path: Path, module: str) -> None:
    """A process that may write 3000 bytes a file: the image that does not fit is an error and leaves no part of it."""
    name, kind = module.split(":")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from babelrs.errors import BabelRSError\n"
        f"from runtime.sinks.{name} import {kind}\n"
        "from tests.runtime.test_geo_sinks import BOXES, result\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        f"sink = {kind}(Path(sys.argv[1]))\n"
        "try:\n    [sink.write(result(BOXES, number)) for number in range(50)]\n"
        "except BabelRSError as error:\n    sys.exit('cannot be written' not in str(error))\n"
        "sys.exit('no error')"
    )
    path, root = tmp_path / "d", Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    if name == "geojson":
        count = len(json.loads(path.read_text())["features"])
    else:
        with path.open(newline="") as stream:
            count = len(list(csv.DictReader(stream)))
    assert count >= 4 and count % 2 == 0 and path.stat().st_size <= 3000


def test_the_cost_of_a_collection_is_that_of_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes written grow with what is added, not with what is there."""
    written: list[int] = []
    from runtime.sinks import appending

    original = appending.os.pwrite

    def counted(descriptor: int, data: bytes, offset: int) -> int:
        written.append(len(data))
        return original(descriptor, data, offset)

    monkeypatch.setattr(appending.os, "pwrite", counted)
    sink = GeoJsonSink(tmp_path / "d.geojson")
    for number in range(100):
        sink.write(result(BOXES, number))
    assert sum(written) < 1.1 * (tmp_path / "d.geojson").stat().st_size


def test_a_file_that_cannot_be_made_is_an_error_of_the_user(tmp_path: Path) -> None:
    for kind in (GeoJsonSink, CsvSink):
        with pytest.raises(BabelRSError, match="cannot be written"):
            kind(tmp_path / "none" / "d")


def test_a_thinned_image_is_drawn_on_where_its_pixels_are() -> None:
    from dataclasses import replace

    half = replace(result(BOXES), image=np.full((60, 80, 1), 90, np.uint8))
    assert (half.width, half.height) == (160, 120)
    changed = annotate(half) != annotate(replace(half, detections=half.detections.select(np.zeros(0, np.int64))))
    for corners in to_corners(np.array(BOXES, np.float32)) * 4 / 2:  # half the pixels, enlarged 4 times
        for x, y in np.rint((corners + np.roll(corners, -1, axis=0)) / 2).astype(int):
            assert changed[y - 1 : y + 2, x - 1 : x + 2].any(axis=2).all()
    with pytest.raises(BabelRSError, match="no image was kept"):
        annotate(result(BOXES))
