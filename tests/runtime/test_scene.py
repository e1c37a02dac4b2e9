"""A scene read tile by tile gives what the image held whole gives, and holds little of it at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.bundle import Bundle
from babelrs.detections import Detections
from babelrs.images import Frame, ImageError
from babelrs.manifest import SensorEntry
from babelrs.radiometry import DEFAULT_PROFILES, to_uint8
from babelrs.sensors import Sensor
from runtime import scene as scenes
from runtime.engines import open_engine
from runtime.geo import GeoReference, PixelMap
from runtime.pipeline import Detector, Stopwatch, batched
from runtime.raster import FrameRaster
from runtime.scene import open_scene
from tests.runtime.brightest import BrightestPixel, dot_entry
from tests.runtime.dots import dots_image

ENTRY = dot_entry(Sensor.IR)


@dataclass
class MadeRaster:
    """An image without pixels: windows are computed when they are read."""

    width: int
    height: int
    make: Callable[[int, int, int, int], npt.NDArray[np.uint8]]
    dtype: str = "uint8"
    geo: PixelMap | None = None
    nodata: float | None = None

    def read(self, x: int, y: int, width: int, height: int) -> Frame:
        return Frame(self.make(x, y, width, height), self.nodata, "made")

    def overview(self, most_px: int) -> Frame:
        raise AssertionError("uint8 needs no window")

    def close(self) -> None: ...


def detector(batch: int = 4, entry: SensorEntry = ENTRY, sensor: Sensor = Sensor.IR) -> tuple[Detector, BrightestPixel]:
    engine = BrightestPixel()
    return Detector(engine, entry, sensor, entry.score_threshold, batch), engine


def as_rows(found: Detections) -> list[list[float]]:
    return sorted(np.column_stack([found.scores, found.labels, found.boxes]).round(3).tolist())


@pytest.mark.parametrize("sensor", list(Sensor))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tile_by_tile_and_whole_give_the_model_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, sensor: Sensor, dtype: str
) -> None:
    """As long as the window is fitted to the same pixels."""
    rng = np.random.default_rng(4)
    counts = (rng.random((200, 300)) * 250 + 2).astype(dtype)
    counts[:90, :120] = 1
    frame = Frame(np.stack([counts] * 3, axis=2) if sensor is Sensor.RGB else counts, nodata=1)
    entry = replace(ENTRY, profile=DEFAULT_PROFILES[sensor], channels=sensor.num_channels)
    (first, held), (second, streamed) = detector(entry=entry, sensor=sensor), detector(entry=entry, sensor=sensor)
    whole = first.detect_raster(FrameRaster(frame), Stopwatch())
    monkeypatch.setattr(scenes, "EXACT_PX", 0)
    tiled = second.detect_raster(FrameRaster(frame), Stopwatch())
    assert whole.scene.image is not None and tiled.scene.image is None
    assert all(np.array_equal(a, b) for a, b in zip(held.tiles, streamed.tiles, strict=True))
    assert as_rows(whole.detections) == as_rows(tiled.detections)
    assert (whole.num_tiles, whole.num_empty) == (tiled.num_tiles, tiled.num_empty) == (24, 2)
    assert np.array_equal(whole.scene.image, to_uint8(frame, entry.profile))
    assert np.array_equal(tiled.scene.picture(), whole.scene.image)


def test_a_small_image_is_converted_exactly_and_a_large_one_by_an_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).integers(7000, 7300, (300, 400)).astype(np.uint16)
    exact = to_uint8(Frame(counts), ENTRY.profile)
    scene = open_scene(FrameRaster(Frame(counts)), ENTRY, Stopwatch())
    assert scene.image is not None and np.array_equal(scene.image, exact)
    monkeypatch.setattr(scenes, "EXACT_PX", 300 * 400 - 1)
    monkeypatch.setattr(scenes, "OVERVIEW_PX", 20_000)
    scene = open_scene(FrameRaster(Frame(counts)), ENTRY, Stopwatch())
    tile = next(scene.tiles())
    pixels = scene.prepare(tile, scene.read(tile))
    assert scene.image is None and pixels is not None
    assert np.abs(pixels.astype(int) - exact[:64, :64]).max() <= 2


@pytest.mark.parametrize("limit", [0, 1 << 24])
def test_tiles_without_a_measurement_are_not_shown_to_the_model(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(scenes, "EXACT_PX", limit)
    counts = np.zeros((64, 64 * 8), np.uint8)
    counts[20, 70] = 200
    entry = replace(ENTRY, tile_overlap=0.0)
    for frame, empty in (
        (Frame(counts, nodata=0), 7),
        (Frame(counts), 0),
        (Frame(np.stack([counts, counts], axis=2), has_alpha=True), 7),
        (Frame(np.full((64, 512), np.nan, np.float32)), 8),
    ):
        found, engine = detector(entry=entry)
        result = found.detect_raster(FrameRaster(frame), Stopwatch())
        assert (result.num_tiles, result.num_empty, sum(engine.batches)) == (8, empty, 8 - empty)
        assert len(result.detections) == (0 if empty == 8 else 1)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_batches_are_full_but_for_the_last_and_keep_the_order(holds: list[bool], size: int) -> None:
    tiles = [(number, np.zeros(1) if one else None) for number, one in enumerate(holds)]
    batches = list(batched(tiles, size))  # type: ignore[arg-type]
    assert [item for batch in batches for item in batch] == tiles
    full = [sum(pixels is not None for _, pixels in batch) for batch in batches]
    assert all(count == size for count in full[:-1]) and (not full or full[-1] <= size)


def test_batches_go_on_across_rows_of_tiles() -> None:
    found, engine = detector(batch=5)
    result = found.detect_raster(FrameRaster(Frame(np.full((200, 170), 90, np.uint8))), Stopwatch())
    assert result.num_tiles == 4 * 4 and engine.batches == [5, 5, 5, 1]


def test_memory_does_not_grow_with_the_scene() -> None:
    """Nine times the pixels, the same peak: what is held are a batch of tiles and the rows that are not settled."""

    def noise(x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        return np.random.default_rng([x, y]).integers(0, 255, (height, width)).astype(np.uint8)

    peaks = []
    for side in (4200, 12_600):
        found, engine = detector(entry=replace(ENTRY, input_height=512, input_width=512))
        engine.tiles = None  # type: ignore[assignment]
        engine.infer = lambda pixels: (  # type: ignore[method-assign]
            np.tile(np.array([100, 90, 12, 6, 0.3], np.float32), (len(pixels), 5, 1)),
            np.full((len(pixels), 5), 0.9, np.float32),
            np.zeros((len(pixels), 5), np.int32),
        )
        tracemalloc.start()
        result = found.detect_raster(MadeRaster(side, side, noise), Stopwatch())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert 0.8 * result.num_tiles < len(result.detections) <= result.num_tiles
    assert peaks[1] < 1.3 * peaks[0] and peaks[1] < 40 << 20


def test_an_image_that_breaks_in_the_middle_is_an_error_and_not_half_a_result() -> None:
    def make(x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        if y > 2000:
            raise ImageError("damaged", "made", "a damaged TIFF.", "Fetch it again.")
        return np.ones((height, width), np.uint8)

    with pytest.raises(ImageError, match="made: a damaged"):
        detector()[0].detect_raster(MadeRaster(4200, 4200, make), Stopwatch())


def test_places_come_with_the_detections_of_a_georeferenced_scene() -> None:
    pytest.importorskip("rasterio", reason="the geo extra is not installed")
    import rasterio.crs

    geo = GeoReference(rasterio.crs.CRS.from_epsg(32632).to_wkt(), (0.5, 0, 500_000, 0, -0.5, 5_000_000))
    counts = dots_image(300, 200, [(150, 100, 255)])
    result = detector()[0].detect_raster(FrameRaster(Frame(counts), geo), Stopwatch())
    assert result.places is not None and len(result.places) == len(result.detections) > 0
    assert detector()[0].detect_raster(FrameRaster(Frame(counts)), Stopwatch()).places is None


def test_a_real_engine_finds_the_same_in_a_scene_that_is_streamed(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = toy_bundle.manifest.entry(Sensor.IR)
    dots = [(int(x), int(y), 210) for x, y in np.random.default_rng(2).integers(10, 490, (30, 2))]
    frame = FrameRaster(Frame(dots_image(500, 500, dots)))
    found = Detector(open_engine(toy_bundle, Sensor.IR, threads=1), entry, Sensor.IR, 0.5)
    whole = found.detect_raster(frame, Stopwatch()).detections
    monkeypatch.setattr(scenes, "EXACT_PX", 0)
    assert len(whole) > 20 and as_rows(found.detect_raster(frame, Stopwatch()).detections) == as_rows(whole)
