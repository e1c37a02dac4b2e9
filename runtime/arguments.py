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
MOST_CHECK_S = 86_400
"""Seconds; a flip that is found after more than a day is not found in flight."""

LEAST_INTERVAL_S = 0.1
MOST_PORT = 65_535

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
  health.json              how the run fares (--health-interval)
  video.S.mp4              annotated images as a video (--save-video); video.S.2.mp4 of the sensor's second source
  mqtt.spool               messages that wait for the broker (--mqtt)
  run.journal              what is done, for --resume: after a crash or a loss of power, the same command with
                           --resume goes on so that every image is once in every output

An image that cannot be used is reported on standard error, counted and skipped. Ctrl-C finishes what is under way.
Exit codes: 0 done, at least one image was processed; 1 a self-test missed its tolerance; 2 the input is wrong, or no
image could be processed; 3 the device or engine failed, the run stopped itself for heat or memory, or something was
not foreseen.
"""


@dataclass(frozen=True)
class Attention:
    """How a run is watched, and what it may do without.

    Attributes:
        interval_s: Seconds between health reports; 0: none; ``None``: a minute where a source is live or a service
            manager listens, else none.
        prometheus: Host and port to serve metrics on.
        deadline_ms: What an image may take from its source to its result.
        most_c: Limit of every thermal zone; ``None``: each zone's own.
    """

    interval_s: float | None = None
    prometheus: tuple[str, int] | None = None
    deadline_ms: float | None = None
    most_c: float | None = None


@dataclass(frozen=True)
class RunOptions:
    """What ``babelrs-run`` was asked to do; see its ``--help``."""

    sensor: Sensor | None
    sources: tuple[str, ...]
    bundle: str | None
    require_signature: str | None
    out: str
    formats: tuple[str, ...]
    save_images: bool
    save_video: bool
    resume: bool
    score: float | None
    engine: str
    batch: int
    threads: int
    log_level: str
    attention: Attention
    check_interval_s: float | None
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
    if given.check_interval is not None and not 0 <= given.check_interval <= MOST_CHECK_S:
        what = f"--check-interval is {given.check_interval}."
        raise BabelRSError(what, f"Give seconds up to {MOST_CHECK_S}, or 0 for no CRC.")
    return RunOptions(
        sensor=None if given.sensor is None else Sensor.parse(given.sensor),
        sources=(*given.positional, *given.source),
        bundle=given.bundle,
        require_signature=given.require_signature,
        out=given.out,
        formats=_formats(given.format),
        save_images=given.save_images,
        save_video=given.save_video,
        resume=given.resume,
        score=given.score,
        engine=given.engine,
        batch=given.batch,
        threads=given.threads,
        log_level="ERROR" if given.quiet else "INFO" if given.verbose else "WARNING",
        attention=_attention(given),
        check_interval_s=given.check_interval,
        link=link_options(given),
    )


def add_require_signature(parser: argparse.ArgumentParser) -> None:
    """Add ``--require-signature``, which is the same in every command that opens a bundle."""
    parser.add_argument(
        "--require-signature", metavar="KEY", help="refuse bundles that this public key (PEM) did not sign"
    )


def _attention(given: argparse.Namespace) -> Attention:
    for name, value, least, most in (
        ("--health-interval", given.health_interval, 0, 86_400),
        ("--deadline-ms", given.deadline_ms, 1, 86_400_000),
        ("--max-temperature", given.max_temperature, 0, 150),
    ):
        if value is not None and not least <= value <= most:
            raise BabelRSError(f"{name} is {value:g}.", f"Give {least} to {most}.")
    interval_s = given.health_interval
    if interval_s is not None and 0 < interval_s < LEAST_INTERVAL_S:
        raise BabelRSError(
            f"--health-interval is {interval_s:g}.", f"Give {LEAST_INTERVAL_S:g} or more, or 0 for none."
        )
    address = None if given.prometheus is None else _address(given.prometheus)
    return Attention(interval_s, address, given.deadline_ms, given.max_temperature)


def _address(text: str) -> tuple[str, int]:
    """``PORT``, which is this device's only, or ``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) <= MOST_PORT) or (":" in text and not host):
        raise BabelRSError(f"--prometheus is {text!r}.", "Give PORT, or HOST:PORT for others than this device.")
    return host.strip("[]") or "127.0.0.1", int(port)


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
    add_require_signature(parser)
    parser.add_argument("--out", default="out", metavar="DIR", help="output folder (default: out)")
    parser.add_argument(
        "--format", default="jsonl", metavar="F[,F]", help=f"any of {','.join(FORMATS)} (default: jsonl)"
    )
    parser.add_argument("--save-images", action="store_true", help="write annotated images too")
    parser.add_argument("--save-video", action="store_true", help="write a video of annotated images too")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the unfinished run in --out; without one, begin"
    )
    parser.add_argument("--score", type=float, metavar="S", help="least score, 0 to 1 (default: the bundle's)")
    parser.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="what runs the model (default: auto)")
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="tiles a run of the model (default: 4)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: 0, one a core)")
    _add_attention(parser)
    parser.add_argument(
        "--check-interval", type=float, metavar="S",
        help="seconds of a CRC pass over the weights in memory; 0: none (default: 10; of INT8 models none)",
    )  # fmt: skip
    add_link_options(parser)
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help="errors only, no closing line")
    loudness.add_argument("--verbose", action="store_true", help="a line on standard error for every image")
    return parser


def _add_attention(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("left alone")
    group.add_argument(
        "--health-interval",
        type=float,
        metavar="S",
        help="seconds between health reports on standard error and in health.json; 0: none (default: 60 for live "
        "sources and services, else none)",
    )
    group.add_argument("--prometheus", metavar="[HOST:]PORT", help="serve /metrics and /healthz over HTTP")
    group.add_argument(
        "--deadline-ms", type=float, metavar="MS", help="do less where images take longer (default: no deadline)"
    )
    group.add_argument(
        "--max-temperature",
        type=float,
        metavar="C",
        help="do less above it (default, for live sources: where the kernel begins to slow the device down)",
    )
