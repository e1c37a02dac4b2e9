"""``babelrs-run``: images in, detection files out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, EXIT_USER_INPUT, BabelRSError, run_command
from runtime.arguments import RunOptions, parse_run

if TYPE_CHECKING:
    from babelrs.bundle import Bundle
    from runtime.sinks import Sink

DEMO_BUNDLE = Path(__file__).resolve().parent / "demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-run`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_run, argv)


def _run(argv: list[str]) -> int:
    options = parse_run(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=options.log_level, stream=sys.stderr)
    # Heavy imports wait until the arguments are known to be right.
    from runtime.engines import open_engine
    from runtime.pipeline import Detector
    from runtime.run import run_images
    from runtime.sources.files import find_images

    images = find_images(options.sources)
    bundle = _open_verified(options.bundle)
    entry = bundle.manifest.entry(options.sensor)
    engine = open_engine(bundle, options.sensor, options.engine, options.threads)
    score = entry.score_threshold if options.score is None else options.score
    detector = Detector(engine, entry, options.sensor, score, options.batch)
    summary = run_images(images, detector, _open_sinks(options))
    if options.log_level != "ERROR":
        sys.stdout.write(f"{options.sensor}: {summary.line()} -> {options.out}\n")
    if summary.num_images == 0:
        what = f"None of the {len(images)} images could be processed."
        sys.stderr.write(f"error: {what} The lines above say why; mend or replace the files.\n")
        return EXIT_USER_INPUT
    return EXIT_DONE


def _open_verified(path: str | None) -> Bundle:
    from babelrs.bundle import open_bundle, verify_files

    if path is None and not (DEMO_BUNDLE / "manifest.json").is_file():
        raise BabelRSError(f"This installation has no demo bundle ({DEMO_BUNDLE}).", "Name a bundle with --bundle.")
    bundle = open_bundle(DEMO_BUNDLE if path is None else path)
    verify_files(bundle)
    return bundle


def _open_sinks(options: RunOptions) -> list[Sink]:
    from runtime.sinks import make_folder
    from runtime.sinks.coco import CocoSink
    from runtime.sinks.dota import DotaSink
    from runtime.sinks.image import ImageSink
    from runtime.sinks.jsonl import JsonLinesSink

    out, sensor = make_folder(Path(options.out)), options.sensor.value
    sinks: list[Sink] = []
    if "jsonl" in options.formats:
        sinks.append(JsonLinesSink(out / f"detections.{sensor}.jsonl"))
    if "dota" in options.formats:
        sinks.append(DotaSink(out / f"dota.{sensor}"))
    if "coco" in options.formats:
        sinks.append(CocoSink(out / f"detections.{sensor}.coco.json"))
    if options.save_images:
        sinks.append(ImageSink(out / f"images.{sensor}"))
    return sinks


if __name__ == "__main__":
    raise SystemExit(main())
