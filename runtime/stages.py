"""The steps from an image to its result, each a generator: alone they run in turn, between lanes in threads.

:func:`prepared` opens scenes, reads tiles and applies radiometry; :func:`inferred` runs the graphs; :func:`finished`
decodes, joins what tiles cut and says where it lies on Earth. What has no result yet is never more than the captures
that sources may have under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from babelrs.images import ImageError
from babelrs.seams import SeamMerger
from babelrs.sensors import Sensor
from runtime.engines import Outputs
from runtime.pipeline import Batch, Detector, FrameResult, places_of
from runtime.scene import Scene, open_scene
from runtime.sources import Capture, Unusable
from runtime.stopwatch import Stopwatch


@dataclass(frozen=True)
class Taken:
    """What a source gave.

    Attributes:
        item: An image, or what is wrong with it.
        sensor: Of the source.
        origin: Place of the source among all.
        stream: Its place among those of its sensor.
        taken_s: When the source gave it, as :func:`time.perf_counter` counts.
        release: To be called once its result is written: the source may give another.
    """

    item: Capture | Unusable
    sensor: Sensor
    origin: int
    stream: int
    taken_s: float
    release: Callable[[], None]


@dataclass
class Job:
    """An image under way.

    Attributes:
        taken: Where it came from.
        capture: The image.
        number: Of its sensor's images in the run, from 0, unusable ones included.
        detector: Its sensor's.
        watch: Milliseconds by stage; each stage is one thread's.
        scene: Once it is open.
        merger: Joins the tiles of the scene.
        num_tiles: Tiles whose detections are in.
    """

    taken: Taken
    capture: Capture
    number: int
    detector: Detector
    watch: Stopwatch = field(default_factory=Stopwatch)
    scene: Scene | None = None
    merger: SeamMerger | None = None
    num_tiles: int = 0


@dataclass(frozen=True)
class Tiles:
    """Tiles of an image, in order; those without a measurement have no pixels."""

    job: Job
    batch: Batch
    outputs: Outputs | None = None


@dataclass(frozen=True)
class Complete:
    """All tiles of an image were given."""

    job: Job


@dataclass(frozen=True)
class Failed:
    """An image that has no result.

    Attributes:
        taken: Where it came from.
        error: Why.
        job: What had begun.
        number: As in :class:`Job`.
    """

    taken: Taken
    error: ImageError
    job: Job | None = None
    number: int = -1


@dataclass(frozen=True)
class Found:
    """The result of an image."""

    taken: Taken
    result: FrameResult


Work = Tiles | Complete | Failed


def prepared(
    taken: Iterable[Taken],
    detector: Detector,
    numbers: Iterator[int],
    shaped: Callable[[Detector], Detector] = lambda detector: detector,
) -> Iterator[Work]:
    """Tiles of uint8 pixels, as many at a time as the detector takes, and the end of every image.

    Args:
        taken: Images of one sensor.
        detector: The sensor's.
        numbers: The images', shared by all sources of the sensor.
        shaped: Gives the detector as the next image is to be treated.
    """
    for one in taken:
        number = next(numbers)
        if isinstance(one.item, Unusable):
            yield Failed(one, one.item.error, None, number)
            continue
        job = Job(one, one.item, number, shaped(detector))
        try:
            yield from _tiles_of(job)
        except ImageError as error:
            yield Failed(one, error, job, number)


def _tiles_of(job: Job) -> Iterator[Work]:
    detector, watch = job.detector, job.watch
    watch.elapsed_ms["read"] += job.capture.read_ms
    job.scene = scene = open_scene(job.capture.raster, detector.entry, watch)
    job.merger = detector.merger(scene)
    for batch in detector.batches(scene, watch):
        yield Tiles(job, batch)
    yield Complete(job)


def inferred(work: Iterable[Work]) -> Iterator[Work]:
    """The same with the graphs' outputs.

    Raises:
        DeviceError: An engine failed.
    """
    for one in work:
        if isinstance(one, Tiles):
            yield Tiles(one.job, one.batch, one.job.detector.infer(one.batch, one.job.watch))
        else:
            yield one


def finished(
    work: Iterable[Work], with_pictures: bool, progress: Callable[[Job], None] = lambda job: None
) -> Iterator[Found | Failed]:
    """A result for every image that has one, in order.

    Args:
        work: Outputs of all tiles.
        with_pictures: Whether results of images that are too large to be held have a thinned picture.
        progress: Called whenever tiles of an image are done.
    """
    for one in work:
        if isinstance(one, Tiles):
            _merge(one)
            progress(one.job)
        else:
            yield _closed(one, with_pictures)


def _merge(tiles: Tiles) -> None:
    job = tiles.job
    assert job.merger is not None  # its tiles were given
    job.detector.merge(tiles.batch, tiles.outputs, job.merger, job.watch)
    job.num_tiles += len(tiles.batch)


def _closed(one: Complete | Failed, with_pictures: bool) -> Found | Failed:
    """The end of an image, whose raster is closed."""
    job = one.job
    if job is None:
        assert isinstance(one, Failed)
        return one
    try:
        return one if isinstance(one, Failed) else Found(job.taken, _result(job, with_pictures))
    except ImageError as error:
        return Failed(job.taken, error, job, job.number)
    finally:
        job.capture.raster.close()


def _result(job: Job, with_pictures: bool) -> FrameResult:
    scene, merger, capture, engine = job.scene, job.merger, job.capture, job.detector.engine
    assert scene is not None and merger is not None  # the image is complete
    with job.watch.stage("postprocess"):
        detections = merger.finish()
        places = places_of(detections, capture.raster.geo)
    return FrameResult(
        source=capture.source.encode(errors="backslashreplace").decode(),  # file names need not be UTF-8; results are
        name=capture.name,
        frame=job.number,
        time=capture.time,
        detections=detections,
        image=scene.picture() if with_pictures or scene.image is not None else None,
        engine=engine.name,
        precision=engine.precision,
        latency_ms=job.watch.elapsed_ms,
        size=(capture.raster.width, capture.raster.height),
        places=places,
        offset_s=capture.offset_s,
        stream=job.taken.stream,
    )
