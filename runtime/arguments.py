"""The command line of ``babelrs-run``. Imports nothing heavy, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.links.options import LinkOptions, add_link_options, link_options

FORMATS = ("jsonl", "geojson", "dota", "coco", "csv")
ENGINE_CHOICES = ("auto", "onnxruntime", "tensorrt")
MOST = 1024
"""Tiles a run of the model, and threads: more would take all memory before anything is said."""

_EPILOG = """\
SOURCE is any of
  FILE, FOLDER, 'PATTERN*.tif'   images (PNG, JPEG, TIFF, GeoTIFF; 8 or 16 bits or float; any size) and videos
  spool:FOLDER                   a folder that is being written to
  rtsp://HOST/PATH               a stream
  /dev/video0                    a camera
  gst:PIPELINE                   a GStreamer pipeline
  -                              PNG, JPEG or Netpbm images on standard input

Several at once, each with its sensor: --source ir=rtsp://CAMERA --source rgb=/dev/video0

Written to --out, with the sensor's name for S:
  detections.S.jsonl       one object an image (jsonl)
  detections.S.geojson     one feature a detection, in longitude and latitude (geojson)
  dota.S/IMAGE.txt         x1 y1 x2 y2 x3 y3 x4 y4 class score (dota)
  detections.S.coco.json   a COCO results list (coco)
  detections.S.csv         one row a detection (csv)
  images.S/IMAGE.jpg       annotated images (--save-images)
  video.S.mp4              annotated images as a video (--save-video); video.S.2.mp4 of the sensor's second source
  mqtt.spool               messages that wait for the broker (--mqtt)

An image that cannot be used is reported on standard error, counted and skipped. Ctrl-C finishes what is under way.
Exit codes: 0 done, at least one image was processed; 2 the input is wrong, or no image could be processed; 3 the device
or engine failed.
"""


@dataclass(frozen=True)
class RunOptions:
    """What ``babelrs-run`` was asked to do; see its ``--help``."""

    sensor: Sensor | None
    sources: tuple[str, ...]
    bundle: str | None
    out: str
    formats: tuple[str, ...]
    save_images: bool
    save_video: bool
    score: float | None
    engine: str
    batch: int
    threads: int
    log_level: str
    link: LinkOptions | None = None


def parse_run(argv: list[str]) -> RunOptions:
    """Parse the arguments of ``babelrs-run``.

    Raises:
        BabelRSError: A value is out of range.
        SystemExit: ``--help``, or the arguments do not parse (exit code 2).
    """
    given = _parser().parse_intermixed_args(argv)  # sources may stand on both sides of an option
    if given.score is not None and not 0 <= given.score <= 1:
        raise BabelRSError(f"--score is {given.score}.", "Give a number from 0 to 1.")
    if not (given.positional or given.source):
        raise BabelRSError("No source was named.", "Name images, a stream or a camera; see --help.")
    if not given.out:
        raise BabelRSError("--out is empty.", "Name a folder.")
    if not (1 <= given.batch <= MOST and 0 <= given.threads <= MOST):
        what = f"--batch is {given.batch}, --threads {given.threads}."
        raise BabelRSError(what, f"Give 1 to {MOST} and 0 to {MOST}.")
    return RunOptions(
        sensor=None if given.sensor is None else Sensor.parse(given.sensor),
        sources=(*given.positional, *given.source),
        bundle=given.bundle,
        out=given.out,
        formats=_formats(given.format),
        save_images=given.save_images,
        save_video=given.save_video,
        score=given.score,
        engine=given.engine,
        batch=given.batch,
        threads=given.threads,
        log_level="ERROR" if given.quiet else "INFO" if given.verbose else "WARNING",
        link=link_options(given),
    )


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise BabelRSError(f"Unknown --format {', '.join(unknown) or text!r}.", f"Use any of: {','.join(FORMATS)}.")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="babelrs-run",
        description="Detect objects in RGB, SAR or infrared images, scenes and streams.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sensors = ",".join(sensor.value for sensor in Sensor)
    parser.add_argument("positional", nargs="*", metavar="SOURCE", help="images, folders, patterns, a stream, a camera")
    parser.add_argument("--sensor", metavar=f"{{{sensors}}}", help="what took the images of sources that do not say so")
    parser.add_argument("--source", action="append", default=[], metavar="S=SOURCE", help="a source with its sensor")
    parser.add_argument("--bundle", metavar="B", help="bundle folder or .babelrs file (default: the demo bundle)")
    parser.add_argument("--out", default="out", metavar="DIR", help="output folder (default: out)")
    parser.add_argument(
        "--format", default="jsonl", metavar="F[,F]", help=f"any of {','.join(FORMATS)} (default: jsonl)"
    )
    parser.add_argument("--save-images", action="store_true", help="write annotated images too")
    parser.add_argument("--save-video", action="store_true", help="write a video of annotated images too")
    parser.add_argument("--score", type=float, metavar="S", help="least score, 0 to 1 (default: the bundle's)")
    parser.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="what runs the model (default: auto)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="tiles a run of the model (default: 4)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: 0, one a core)")
    add_link_options(parser)
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="errors only, no closing line")
    loudness.add_argument("--verbose", action="store_true", help="a line on standard error for every image")
    return parser
