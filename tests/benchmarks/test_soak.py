"""A run that goes on keeps its memory, threads and descriptors; and the benchmark that says so can say otherwise."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest

from babelrs.sensors import Sensor
from benchmarks.soak import Feeder, Look, SoakConfig, judged, missed, netpbm, slope, soak
from runtime.sources.netpbm import read_header


def looks(grow_mb: float = 0.0, more_threads: int = 0, more_descriptors: int = 0) -> list[Look]:
    """An hour, a look a minute; what grows does so evenly, with a peak now and then."""
    return [
        Look(
            at_s=60.0 * minute,
            resident_mb=100 + grow_mb * minute + 40 * (minute % 17 == 5),
            threads=9 + more_threads * minute // 59,
            descriptors=8 + more_descriptors * minute // 59,
            images=60 * minute,
        )
        for minute in range(60)
    ]


def test_a_slope_is_found_in_spite_of_peaks() -> None:
    found = judged(looks(grow_mb=2.5), warm_up_s=300)
    assert found["mb_a_minute"] == pytest.approx(2.5, abs=0.05)
    assert found["images_a_second"] == pytest.approx(1.0)
    assert missed(found) == ["memory grows by 2.50 MB a minute; 1.0"]


def test_growth_of_threads_and_descriptors_is_a_fault() -> None:
    assert missed(judged(looks(), 300)) == []
    assert missed(judged(looks(more_threads=3), 300))[0].startswith("threads grew by")
    assert missed(judged(looks(more_descriptors=3), 300))[0].startswith("descriptors grew by")


def test_the_slope_is_that_of_least_squares_on_a_line() -> None:
    times = np.linspace(0, 500, 80)
    assert slope(times.tolist(), (3 - 0.7 * times / 60).tolist()) == pytest.approx(-0.7)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_images_on_the_pipe_are_what_the_runtime_reads(dtype: str, bands: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (5, 4, bands)).astype(dtype)
    data = netpbm(pixels)
    header = read_header(data)
    assert (header.width, header.height, header.num_bands) == (4, 5, bands)
    counts = np.frombuffer(data[header.num_bytes :], header.dtype).reshape(pixels.shape)
    assert np.array_equal(counts, pixels)


class Pipe(io.BytesIO):
    """Stays open, and tells when it holds enough."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.full, self.most = threading.Event(), most

    def write(self, data: object) -> int:
        written = super().write(data)  # type: ignore[arg-type]
        if self.tell() > self.most:
            self.full.set()
        return written

    def close(self) -> None:
        pass


def test_images_differ_from_those_before_by_their_noise() -> None:
    pipe = Pipe(most=3000)
    feeder = Feeder(pipe, [np.full((8, 8, 1), 100, np.uint8)], seed=3)
    feeder.ended = pipe.full
    feeder.run()
    size = len(netpbm(np.zeros((8, 8, 1), np.uint8)))
    images = [pipe.getvalue()[at : at + size] for at in range(0, len(pipe.getvalue()), size)]
    assert len(images) == feeder.images > 30
    assert len(set(images)) > 0.5 * len(images), "there are 64 places that the noise can begin at"


def test_two_minutes_at_full_rate_leave_memory_threads_and_descriptors_as_they_are() -> None:
    found = judged(soak(SoakConfig(minutes=2, warm_up_minutes=0.7, sensor=Sensor.IR, side_px=256, every_s=1)), 42)
    assert missed(found) == [], found
    assert found["images"] > 30
