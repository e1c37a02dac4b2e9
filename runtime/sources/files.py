"""Image files: which ones names, folders and glob patterns on a command line mean, read in order and without loss."""

from __future__ import annotations

import glob
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from babelrs.errors import BabelRSError, collected
from babelrs.images import IMAGE_SUFFIXES, ImageError, read_frame
from babelrs.sensors import Sensor
from runtime.raster import FrameRaster, Raster
from runtime.sources import Capture, Unusable
from runtime.sources.clock import Clock, utc_text
from runtime.sources.naming import redacted
from runtime.sources.past import Past, unlike

OpenRaster = Callable[[Path], Raster]

_LONGEST_NAME_BYTES = 200
"""Files about an image have suffixes, and numbers that make them unique: 255 bytes are what file systems take."""
_REMEDY = "Name image files, folders of images, or glob patterns."


@dataclass(frozen=True)
class ImageFile:
    """An image to process.

    Attributes:
        path: The file.
        name: A name without suffix, unique in this run, for files written about the image.
    """

    path: Path
    name: str

    @property
    def key(self) -> str:
        """What tells it from all other files, wherever a later run is started."""
        return os.path.abspath(self.path)


def whole_frame(path: Path) -> Raster:
    """Read all of an image file into memory.

    Raises:
        ImageError: It cannot be read.
    """
    return FrameRaster(read_frame(path))


@dataclass(frozen=True)
class FileSource:
    """Image files, one after the other; one that cannot be used does not end it.

    Attributes:
        name: As the command line called it.
        sensor: What took the images.
        images: The files, in the order in which they are read.
        open_raster: Opens a file; raises :class:`ImageError`.
        clock: Tells the time.
        first: Number of the first image in its source.
    """

    name: str
    sensor: Sensor
    images: Sequence[ImageFile]
    open_raster: OpenRaster = whole_frame
    clock: Clock = field(default_factory=Clock)
    first: int = 0
    live: ClassVar[bool] = False
    dropped: ClassVar[int] = 0

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """See :meth:`Source.captures`."""
        for sequence, image in enumerate(self.images, self.first):
            if stop.is_set():
                return
            yield read_capture(image, self.sensor, sequence, self.open_raster, self.clock, image.key, image.name)

    def resumed(self, past: Past) -> FileSource:
        """See :meth:`Source.resumed`; files that came since are taken, what was taken is not looked into."""
        taken = set(past.stems.values())  # a file that came since may be called like one of them
        left = (image for image in self.images if image.key not in past.counts)
        images = [replace(image, name=unlike(image.name, taken)) for image in left]
        return replace(self, images=images, first=past.next_sequence)

    def close(self) -> None:
        """Nothing is open between images."""


def joined(sources: Sequence[FileSource]) -> FileSource:
    """The images of several sources of one sensor, one after the other, each file once."""
    images: dict[Path, ImageFile] = {}
    for image in (image for source in sources for image in source.images):
        images.setdefault(image.path.resolve(), image)
    return replace(sources[0], name=", ".join(source.name for source in sources), images=list(images.values()))


def read_capture(
    image: ImageFile,
    sensor: Sensor,
    sequence: int,
    open_raster: OpenRaster,
    clock: Clock,
    key: str,
    stem: str = "",
) -> Capture | Unusable:
    """Open one image file.

    Args:
        image: The file, and what files about it are called.
        sensor: What took it.
        sequence: Its number in its source.
        open_raster: Opens it.
        clock: Tells the time.
        key: As in :class:`Capture`.
        stem: As in :class:`Capture`.
    """
    start = clock.monotonic()
    try:
        raster = open_raster(image.path)
    except ImageError as error:
        return Unusable(str(image.path), error, sequence, key, stem)
    time = utc_text(clock.now())
    read_ms = clock.ms_since(start)
    return Capture(raster, str(image.path), image.name, sensor, sequence, time, read_ms, key=key, stem=stem)


def find_images(sources: Sequence[str]) -> list[ImageFile]:
    """The image files that ``sources`` mean, each once, in the order of the sources.

    A folder gives the PNG, JPEG and TIFF files in it and below it, in natural order (``2.png`` before ``10.png``);
    hidden files and folders are left out. A pattern may hold ``*``, ``?``, ``[...]`` and ``**``. A file that is named
    is taken whatever its suffix.

    Raises:
        BabelRSError: A source does not exist or holds no image; all such sources are listed.
    """
    found: list[tuple[Path, Path]] = []
    faults = []
    for source in sources:
        matches = list(_expand(source))
        if not matches:
            faults.append(_why_empty(source))
        found += matches
    if faults or not found:
        raise collected("Nothing to process", faults or ["no source was named"], _REMEDY)
    return _named(found)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts numbers inside names by value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _expand(source: str) -> Iterable[tuple[Path, Path]]:
    """``(file, folder its name is relative to)``."""
    path = Path(source)
    if path.is_dir():
        return ((file, path) for file in _images_below(path))
    if path.exists():
        return [(path, path.parent)]
    matches = sorted((Path(match) for match in glob.glob(source, recursive=True)), key=natural_key)
    files = (match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES)
    return ((file, file.parent) for file in files)


def _images_below(folder: Path) -> list[Path]:
    try:
        below = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    except OSError as error:
        raise BabelRSError(f"{folder}: cannot be listed ({error.strerror}).", "Check its permissions.") from None
    visible = (path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=natural_key)


def _why_empty(source: str) -> str:
    if Path(source).is_dir():
        return f"{source}: a folder without {', '.join(IMAGE_SUFFIXES)} files"
    if glob.has_magic(source):
        return f"{source}: no image file matches"
    return f"{redacted(source)}: no such file or folder"


def _shortened(name: str) -> str:
    """The end of a name that is too long for a file: folders that lie deep are told by their last parts."""
    return os.fsencode(name)[-_LONGEST_NAME_BYTES:].decode("utf-8", "ignore")


def _named(found: Sequence[tuple[Path, Path]]) -> list[ImageFile]:
    images: list[ImageFile] = []
    seen_paths: set[Path] = set()
    seen_names: set[str] = set()
    for path, root in found:
        if path.resolve() in seen_paths:
            continue
        seen_paths.add(path.resolve())
        name = base = _shortened("__".join(path.relative_to(root).with_suffix("").parts))
        count = 1
        while name in seen_names:
            count += 1
            name = f"{base}-{count}"
        seen_names.add(name)
        images.append(ImageFile(path, name))
    return images
