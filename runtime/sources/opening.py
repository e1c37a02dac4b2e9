"""From what a command line calls a source to the source."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from babelrs.errors import BabelRSError, collected
from babelrs.images import IMAGE_SUFFIXES
from babelrs.sensors import Sensor
from runtime.sources import Source
from runtime.sources.camera import ADDRESS as CAMERA
from runtime.sources.camera import CameraStream, parse_camera
from runtime.sources.clock import Clock
from runtime.sources.files import FileSource, ImageFile, OpenRaster, find_images, joined, natural_key, whole_frame
from runtime.sources.gstreamer import GStreamerStream, launch_command
from runtime.sources.libav import require_av
from runtime.sources.live import Connect, Patience
from runtime.sources.naming import Names, redacted
from runtime.sources.network import URL_SCHEMES, NetworkStream
from runtime.sources.spool import SpoolSource, SpoolTiming
from runtime.sources.standard_input import PipedSource
from runtime.sources.supervised import SupervisedSource, Supervision
from runtime.sources.video import VIDEO_SUFFIXES, VideoFile, VideoSource

_LOGGER = logging.getLogger(__name__)

ADDRESS_FORMS = f"""\
FILE, FOLDER, 'PATTERN*.tif'   images ({", ".join(IMAGE_SUFFIXES)}) and videos ({", ".join(VIDEO_SUFFIXES)})
spool:FOLDER                   a folder that is being written to
rtsp://HOST/PATH               a stream; also {", ".join(scheme for scheme in URL_SCHEMES if scheme != "rtsp")}
/dev/video0                    a camera; /dev/video0?format=Y16&size=640x512&fps=30 sets it
gst:PIPELINE                   a GStreamer pipeline, as in 'gst:nvarguscamerasrc ! nvvidconv'
-                              PNG, JPEG or binary Netpbm images on standard input"""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|/dev/|-$")  # the beginning of what cannot be a path
_SENSOR = re.compile(r"([A-Za-z0-9_]*)=(.*)", re.DOTALL)
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_VIDEO_MAGIC = re.compile(rb"\x1aE\xdf\xa3|RIFF....AVI |....ftyp|FLV\x01|OggS|\0\0\x01[\xb3\xba]", re.DOTALL)


@dataclass(frozen=True)
class Opening:
    """What sources are opened with; one for all sources of a run.

    Attributes:
        names: Gives names for files about frames.
        open_raster: Opens an image file; raises :class:`ImageError`.
        supervision: When live sources connect again.
        patience: How long live sources may take.
        timing: When the files of a spool are looked at.
        clock: Tells the time and waits.
    """

    names: Names = field(default_factory=Names)
    open_raster: OpenRaster = whole_frame
    supervision: Supervision = field(default_factory=Supervision)
    patience: Patience = field(default_factory=Patience)
    timing: SpoolTiming = field(default_factory=SpoolTiming)
    clock: Clock = field(default_factory=Clock)


def parse_source(text: str) -> tuple[Sensor | None, str]:
    """The sensor, where one is named, and the address in ``SENSOR=ADDRESS`` or ``ADDRESS``.

    A path that exists is a path, whatever is before its ``=``.

    Raises:
        BabelRSError: The address is empty, or what stands before it is no sensor.
    """
    found = _SENSOR.fullmatch(text)
    if found is not None and not os.path.exists(text):
        sensor, address = found.groups()
        if sensor.lower() in tuple(Sensor) or _ADDRESS.match(address):
            if not address:
                raise BabelRSError(
                    f"{text!r} names no source.", f"Write {sensor}=ADDRESS; addresses are:\n{ADDRESS_FORMS}"
                )
            return Sensor.parse(sensor), address
    if not text:
        raise BabelRSError("A source without a name.", f"Addresses are:\n{ADDRESS_FORMS}")
    return None, text


def open_together(named: Sequence[tuple[Sensor, str]], opening: Opening) -> list[Source]:
    """The sources that several addresses mean; those of a sensor that are image files become one, each file once.

    Args:
        named: Sensors and addresses.
        opening: What they are opened with.

    Raises:
        BabelRSError: As :func:`open_source`; where several cannot be opened, all are listed.
    """
    opened: list[Source] = []
    errors: list[BabelRSError] = []
    if [address for _, address in named].count("-") > 1:
        raise BabelRSError("Several sources are standard input (-).", "There is one; name it once.")
    for sensor, address in named:
        try:
            opened.append(open_source(address, sensor, opening))
        except BabelRSError as error:
            errors.append(error)
        except OSError as error:  # a name too long for the system, a folder above it that may not be entered
            what = f"{redacted(address)}: cannot be looked at ({error.strerror})."
            errors.append(BabelRSError(what, f"Check the path and its permissions. Addresses are:\n{ADDRESS_FORMS}"))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise collected("These sources cannot be opened", [str(error) for error in errors], "Mend or leave them out.")
    files = [each for each in opened if isinstance(each, FileSource)]
    by_sensor = [[each for each in files if each.sensor == sensor] for sensor in Sensor]
    others = [each for each in opened if not isinstance(each, FileSource)]
    return [*(joined(sources) for sources in by_sensor if sources), *others]


def open_source(address: str, sensor: Sensor, opening: Opening) -> Source:
    """The source that ``address`` means; see :data:`ADDRESS_FORMS`. Live ones connect when captures are asked for.

    Raises:
        BabelRSError: The form is unknown, a file or folder is missing or holds no image, or what the source needs is
            not installed.
    """
    for fits, open_kind in _KINDS:
        if fits(address):
            return open_kind(address, sensor, opening)
    found = _URL.match(address)
    if found is not None and not os.path.exists(address):
        raise BabelRSError(f"{redacted(address)}: no source of this kind.", f"Addresses are:\n{ADDRESS_FORMS}")
    return _open_paths(address, sensor, opening)


def _open_paths(address: str, sensor: Sensor, opening: Opening) -> Source:
    videos = _find_videos(address)
    try:
        images = find_images([address])
    except BabelRSError:
        if not videos:
            raise
        images = []
    if images and videos and images[0].path != videos[0]:
        _LOGGER.warning("%s: %d videos beside the images are left out; name them to use them", address, len(videos))
    if images and not (len(images) == 1 and videos == [images[0].path]):
        named = [ImageFile(image.path, opening.names.unique(image.name)) for image in images]
        return FileSource(address, sensor, named, opening.open_raster, opening.clock)
    files = [VideoFile(path, opening.names.prefix(path.stem)) for path in videos]
    return VideoSource(address, sensor, files, opening.clock)


def is_path(address: str) -> bool:
    """Whether it means files, a folder or a pattern."""
    return os.path.exists(address) or not (_URL.match(address) or any(fits(address) for fits, _ in _KINDS))


def _find_videos(address: str) -> list[Path]:
    """The video files that a path, folder or pattern means."""
    path = Path(address)
    if path.is_file():
        return [path] if _is_video(path) else []
    found = path.rglob("*") if path.is_dir() else (Path(match) for match in glob.glob(address, recursive=True))
    videos = [file for file in found if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()]
    return sorted((file for file in videos if not file.name.startswith(".")), key=natural_key)


def _is_video(path: Path) -> bool:
    """By its content where that tells, else by its name; what is neither is left to the image reader's message."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        head = b""
    if head.startswith(_IMAGE_MAGIC):
        return False
    return path.suffix.lower() in VIDEO_SUFFIXES or _VIDEO_MAGIC.match(head) is not None


def _open_input(address: str, sensor: Sensor, opening: Opening) -> Source:
    return PipedSource(address, sensor, opening.names.prefix("stdin"), clock=opening.clock)


def _open_spool(address: str, sensor: Sensor, opening: Opening) -> Source:
    folder = Path(address.removeprefix("spool:"))
    prefix = opening.names.prefix(folder.resolve().name)
    return SpoolSource(address, sensor, prefix, folder, opening.open_raster, opening.timing, opening.clock)


def _open_camera(address: str, sensor: Sensor, opening: Opening) -> Source:
    camera = parse_camera(address)
    return _supervised(address, sensor, opening, lambda stop: CameraStream(camera, opening.patience, opening.clock))


def _open_pipeline(address: str, sensor: Sensor, opening: Opening) -> Source:
    pipeline = address.removeprefix("gst:")
    launch_command(pipeline, descriptor=1)  # what can never run is said before anything does
    return _supervised(
        address, sensor, opening, lambda stop: GStreamerStream(pipeline, opening.patience, stop, opening.clock)
    )


def _open_stream(address: str, sensor: Sensor, opening: Opening) -> Source:
    path = address.partition("?")[0]
    if path.lower().startswith("http") and path.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
        raise BabelRSError(f"{redacted(address)}: a file, not a live stream.", "Download it and name the file.")
    require_av()
    return _supervised(
        address, sensor, opening, lambda stop: NetworkStream(address, sensor, opening.patience, opening.clock)
    )


def _supervised(address: str, sensor: Sensor, opening: Opening, connect: Connect) -> Source:
    prefix = opening.names.prefix(address)
    return SupervisedSource(redacted(address), sensor, prefix, connect, opening.supervision, opening.clock)


def _is_url(address: str) -> bool:
    found = _URL.match(address)
    return found is not None and found.group(1).lower() in URL_SCHEMES


_KINDS: tuple[tuple[Callable[[str], object], Callable[[str, Sensor, Opening], Source]], ...] = (
    (lambda address: address == "-", _open_input),
    (CAMERA.fullmatch, _open_camera),
    (lambda address: address.startswith("gst:"), _open_pipeline),
    (lambda address: address.startswith("spool:"), _open_spool),
    (_is_url, _open_stream),
)
"""Which addresses a kind takes, and how it is opened; what none takes is a path."""
