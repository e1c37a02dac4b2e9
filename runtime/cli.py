"""``babelrs-run``: images in, detection files out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, EXIT_USER_INPUT, BabelRSError, run_command, say
from runtime.arguments import RunOptions, parse_run

if TYPE_CHECKING:
    from babelrs.bundle import Bundle
    from babelrs.sensors import Sensor
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
    # Heavy imports wait until the arguments are known to be right.
    from runtime.outputs import open_sinks
    from runtime.progress import progress_line
    from runtime.run import run_sources
    from runtime.stopping import stopped_by_signals

    sources = _open_sources(options)
    detectors = _open_detectors(options, {source.sensor for source in sources})
    pictures = [name for name, wanted in (("images", options.save_images), ("video", options.save_video)) if wanted]
    line = progress_line(options.log_level != "WARNING")
    with stopped_by_signals() as stop:
        sinks = open_sinks(Path(options.out), detectors, (*options.formats, *pictures), options.link)
        summaries = run_sources(sources, detectors, sinks, stop.event, bool(pictures), line or (lambda job: None))
    if line is not None:
        line.clear()
    return _report(options, sources, detectors, summaries, stop.asked)


def _open_sources(options: RunOptions) -> list[Source]:
    """The sources; plain images of one sensor are one source, so that none is read twice.

    Raises:
        BabelRSError: One of them cannot be opened, or does not say its sensor.
    """
    from runtime.rasters import open_raster
    from runtime.sources.naming import redacted
    from runtime.sources.opening import Opening, open_together, parse_source

    named = []
    for own, address in map(parse_source, options.sources):
        sensor = own or options.sensor
        if sensor is None:
            what = f"The sensor of {redacted(address)} is not known."
            raise BabelRSError(what, "Give --sensor, or --source SENSOR=ADDRESS.")
        named.append((sensor, address))
    return open_together(named, Opening(open_raster=open_raster))


def _open_detectors(options: RunOptions, sensors: set[Sensor]) -> dict[Sensor, Detector]:
    from runtime.engines import open_engine
    from runtime.pipeline import Detector

    bundle, detectors = _open_verified(options.bundle), {}
    for sensor in sorted(sensors):
        entry = bundle.manifest.entry(sensor)
        engine = open_engine(bundle, sensor, options.engine, options.threads)
        score = entry.score_threshold if options.score is None else options.score
        detectors[sensor] = Detector(engine, entry, sensor, score, options.batch)
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
    if stopped or any(summary.num_images for summary in summaries):
        return EXIT_DONE
    tried = sum(sum(summary.skipped.values()) for summary in summaries)
    why = "The lines above say why; mend or replace the files."
    what = f"None of the {tried} images could be processed. {why}" if tried else "The sources gave no image."
    say(f"error: {what}\n", sys.stderr)
    return EXIT_USER_INPUT


def _open_verified(path: str | None) -> Bundle:
    from babelrs.bundle import open_bundle, verify_files

    if path is None and not (DEMO_BUNDLE / "manifest.json").is_file():
        raise BabelRSError(f"This installation has no demo bundle ({DEMO_BUNDLE}).", "Name a bundle with --bundle.")
    bundle = open_bundle(DEMO_BUNDLE if path is None else path)
    verify_files(bundle)
    return bundle


if __name__ == "__main__":
    raise SystemExit(main())
