"""``babelrs-run``: images in, detection files out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, EXIT_USER_INPUT, BabelRSError, run_command, say
from runtime.arguments import RunOptions, parse_run
from runtime.unforeseen import unforeseen_ends_safely

if TYPE_CHECKING:
    from babelrs.bundle import Bundle
    from babelrs.sensors import Sensor
    from runtime.health.attendance import Attendance
    from runtime.pipeline import Detector
    from runtime.sources import Source
    from runtime.summary import Summary

DEMO_BUNDLE = Path(__file__).resolve().parent / "demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-run`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int:
    options = parse_run(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=options.log_level, stream=sys.stderr)
    with unforeseen_ends_safely():
        return _detect(options)


def _detect(options: RunOptions) -> int:
    """Run as asked for; the exit code."""
    # Heavy imports wait until the arguments are known to be right.
    from runtime.health.attendance import Attendance
    from runtime.locking import locked
    from runtime.outputs import link_status, open_sinks
    from runtime.progress import progress_line
    from runtime.recorder import open_recorder
    from runtime.run import run_sources
    from runtime.run_settings import settings_of
    from runtime.stopping import stopped_by_signals

    named = _named_sources(options)
    sources = _open_sources(named)
    bundle, folder = _open_verified(options.bundle, options.require_signature), Path(options.out)
    attendance = Attendance(options.attention, sources, folder, options.log_level == "ERROR")
    detectors = _open_detectors(options, bundle, {source.sensor for source in sources}, attendance)
    pictures = [name for name, wanted in (("images", options.save_images), ("video", options.save_video)) if wanted]
    line = progress_line(options.log_level != "WARNING")
    formats, progress = (*options.formats, *pictures), line or (lambda job: None)
    settings = settings_of(bundle.digest, named, {each: it.score_threshold for each, it in detectors.items()}, formats)
    with (
        stopped_by_signals() as stop,
        locked(folder),
        closing(open_recorder(folder, settings, options.resume)) as recorder,
        attendance.during(stop.event) as monitor,
    ):
        sinks = open_sinks(folder, detectors, formats, recorder.standing.marks, options.link)
        if options.link is not None:
            monitor.also("link", link_status(sinks))
        sources = recorder.resumed(sources)
        summaries = run_sources(sources, detectors, sinks, stop.event, bool(pictures), progress, recorder, monitor)
    if line is not None:
        line.clear()
    code = _report(options, sources, detectors, summaries, stop.asked or attendance.has_given_up)
    return attendance.explain() if attendance.has_given_up else code


def _named_sources(options: RunOptions) -> list[tuple[Sensor, str]]:
    """Sensors and addresses of the sources.

    Raises:
        BabelRSError: One of them does not say its sensor.
    """
    from runtime.sources.naming import redacted
    from runtime.sources.opening import parse_source

    named = []
    for own, address in map(parse_source, options.sources):
        sensor = own or options.sensor
        if sensor is None:
            what = f"The sensor of {redacted(address)} is not known."
            raise BabelRSError(what, "Give --sensor, or --source SENSOR=ADDRESS.")
        named.append((sensor, address))
    return named


def _open_sources(named: Sequence[tuple[Sensor, str]]) -> list[Source]:
    """The sources; plain images of one sensor are one source, so that none is read twice.

    Raises:
        BabelRSError: One of them cannot be opened.
    """
    from runtime.rasters import open_raster
    from runtime.sources.opening import Opening, open_together

    return open_together(named, Opening(open_raster=open_raster))


def _open_detectors(
    options: RunOptions, bundle: Bundle, sensors: set[Sensor], attendance: Attendance
) -> dict[Sensor, Detector]:
    from runtime.degrading.fallback import FallbackEngine
    from runtime.engines import Engine
    from runtime.integrity.opening import open_guarded
    from runtime.pipeline import Detector

    detectors, counters = {}, {}
    for sensor in sorted(sensors):
        entry = bundle.manifest.entry(sensor)
        opening = partial(open_guarded, bundle, sensor, options.engine, options.threads, options.check_interval_s)
        engine: Engine = (guarded := opening())
        counters[sensor.value] = guarded.counters
        if attendance.degrader is not None:
            engine = FallbackEngine(engine, partial(opening, on_cpu=True), attendance.degrader)
        score = entry.score_threshold if options.score is None else options.score
        detectors[sensor] = Detector(engine, entry, sensor, score, options.batch)
    attendance.monitor.also("integrity", lambda: {name: vars(each) for name, each in counters.items()})
    return detectors


def _report(
    options: RunOptions,
    sources: Sequence[Source],
    detectors: Mapping[Sensor, Detector],
    summaries: Sequence[Summary],
    stopped: bool,
) -> int:
    """Say what came of every source; the exit code."""
    if options.log_level != "ERROR":
        for source, summary in zip(sources, summaries, strict=True):
            what = f"{source.sensor}" if len(sources) == 1 else f"{source.sensor} {source.name}"
            say(f"{what}: {summary.line()} -> {options.out}\n", sys.stdout)
        for sensor, detector in detectors.items():
            engine = detector.engine
            say(f"{sensor}: engine {engine.name} {engine.precision}: {engine.reason}\n", sys.stdout)
    if stopped or any(summary.num_images or summary.num_before for summary in summaries):
        return EXIT_DONE
    tried = sum(sum(summary.skipped.values()) + summary.num_skipped_before for summary in summaries)
    why = "The lines above say why; mend or replace the files."
    what = f"None of the {tried} images could be processed. {why}" if tried else "The sources gave no image."
    say(f"error: {what}\n", sys.stderr)
    return EXIT_USER_INPUT


def _open_verified(path: str | None, key: str | None) -> Bundle:
    from babelrs.bundle import open_trusted

    if path is None and not (DEMO_BUNDLE / "manifest.json").is_file():
        raise BabelRSError(f"This installation has no demo bundle ({DEMO_BUNDLE}).", "Name a bundle with --bundle.")
    return open_trusted(DEMO_BUNDLE if path is None else path, key)


if __name__ == "__main__":
    raise SystemExit(main())
