"""WebDataset shards: plain tar files of ``key.json`` and ``key.0.jpg``, written once and streamed from anywhere.

A sample's ``key.json`` is a row in the published format; what its set said of it is under ``babelrs``. Local paths are
opened directly, ``scheme://`` URLs by fsspec (``s3://`` needs s3fs, ``gs://`` gcsfs), anything else by a callable that
is passed in. ``pipe:`` commands are refused: an index of shards must not be able to run programs.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from babelrs.errors import BabelRSError
from train.instruct.faults import refuse

SCHEMA = "babelrs.instruct-shards/1"
INDEX_NAME = "shards.json"
OWN_FIELD = "babelrs"

Opener = Callable[[str], IO[bytes]]
"""Opens a shard for reading by its path or URL; must be picklable where loader processes are spawned."""


class ShardFault(Exception):
    """A shard cannot be read to its end; the run goes on with the next."""


@dataclass(frozen=True)
class ShardSample:
    """What a shard holds of one sample.

    Attributes:
        key: Its name in the shard.
        row: Bytes of its row.
        images: Bytes of its image files by number.
        max_tiles: Largest number of tiles, if its set said so.
        data_augment: Whether its set wants images re-encoded.
    """

    key: str
    row: bytes
    images: Mapping[int, bytes]
    max_tiles: int | None = None
    data_augment: bool = False


@dataclass(frozen=True)
class ShardIndex:
    """The shards of a set, in order, and their numbers of samples."""

    urls: tuple[str, ...]
    samples: tuple[int, ...] = field(default=())


def open_local_or_url(url: str) -> IO[bytes]:
    """Open a local path, or a URL by fsspec.

    Raises:
        BabelRSError: It is a ``pipe:`` command, or fsspec cannot open such URLs.
        OSError: There is no such file.
    """
    refuse_pipe(url)
    if "://" not in url:
        return open(url, "rb")
    try:
        opened: IO[bytes] = importlib.import_module("fsspec").open(url, "rb").open()
        return opened
    except (ImportError, ValueError) as error:
        scheme = url.split("://")[0]
        raise BabelRSError(f"Cannot open {url}: {error}.", f"Install fsspec's package for {scheme}.") from None


def refuse_pipe(url: str) -> None:
    """Raise for a ``pipe:`` command.

    Raises:
        BabelRSError: It is one.
    """
    if is_pipe(url):
        raise BabelRSError(f"{url!r} is a command, which is never run.", "Give paths or URLs of shards.")


def is_pipe(url: str) -> bool:
    """Whether a URL is a command, as other readers of shards would run it."""
    return url.strip().lower().startswith("pipe:")


def read_index(url: str, opener: Opener = open_local_or_url) -> ShardIndex:
    """The shards that an index names; relative ones lie beside it.

    Raises:
        BabelRSError: The index cannot be read or is none, names a ``pipe:`` command, or local shards are missing; all
            are listed.
    """
    refuse_pipe(url)
    try:
        with opener(url) as file:
            content = json.loads(file.read())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r} is not {SCHEMA!r}")
        names = [str(shard["file"]) for shard in content["shards"]]
        samples = tuple(int(shard["samples"]) for shard in content["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"Cannot read the index of shards {url}: {type(error).__name__}: {error}."
        raise BabelRSError(what, "Write shards with python -m train.instruct.write_shards.") from None
    urls = tuple(_beside(url, name) for name in names)
    faults = [f"{name} is a command, which is never run" for name in names if is_pipe(name)]
    if opener is open_local_or_url:
        faults += [f"no file {shard}" for shard in urls if "://" not in shard and not Path(shard).is_file()]
    refuse(f"The index of shards {url} cannot be used", faults, "Put the shards there, or write them again.")
    return ShardIndex(urls, samples)


def _beside(index: str, name: str) -> str:
    if "://" in name or os.path.isabs(name):
        return name
    folder = index.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name


def read_shard(url: str, opener: Opener = open_local_or_url) -> Iterator[ShardSample]:
    """The samples of a shard from front to back, without seeking.

    Raises:
        ShardFault: It cannot be opened, or breaks off; what came before is good.
    """
    try:
        with opener(url) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield from _samples(_members(tar))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ShardFault(f"{url}: {type(error).__name__}: {error}") from None


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Key, ending and content of every file; a key is the name up to the first dot."""
    for member in tar:
        if not member.isfile():
            continue
        file = tar.extractfile(member)
        data = file.read() if file else b""  # raises where the file breaks off
        folder, _, name = member.name.rpartition("/")
        key, _, ending = name.partition(".")
        yield f"{folder}/{key}" if folder else key, ending.lower(), data


def _samples(members: Iterator[tuple[str, str, bytes]]) -> Iterator[ShardSample]:
    """Group neighbouring files of one key."""
    current, parts = None, dict[str, bytes]()
    for key, ending, data in members:
        if key != current and current is not None:
            yield _sample(current, parts)
            parts = {}
        current = key
        parts[ending] = data
    if current is not None:
        yield _sample(current, parts)


def _sample(key: str, parts: Mapping[str, bytes]) -> ShardSample:
    row = parts.get("json", b"")
    images = {int(n): data for (n, _, _), data in ((e.partition("."), d) for e, d in parts.items()) if n.isdigit()}
    if not images:  # one picture beside its text, as other tools write it: key.jpg
        images = dict(enumerate(data for ending, data in parts.items() if ending not in ("json", "txt", "cls")))
    own = _own_fields(row)
    tiles = own.get("max_dynamic_patch")
    usable = isinstance(tiles, int) and not isinstance(tiles, bool) and tiles > 0
    return ShardSample(key, row, images, tiles if usable else None, own.get("data_augment") is True)


def _own_fields(row: bytes) -> Mapping[str, Any]:
    try:
        own = json.loads(row)[OWN_FIELD]
    except (ValueError, KeyError, TypeError):
        return {}
    return own if isinstance(own, dict) else {}


class ShardWriter:
    """Writes samples to shards of at most so many samples, and the index at the end; use it in ``with``.

    Args:
        folder: Where; must hold no index yet.
        shard_samples: Samples of a shard at most.

    Raises:
        BabelRSError: The folder holds shards already or cannot be written.
    """

    def __init__(self, folder: Path, shard_samples: int) -> None:
        self.folder, self.shard_samples = folder, shard_samples
        self._tar: tarfile.TarFile | None = None
        self._counts: list[int] = []
        if (folder / INDEX_NAME).exists():
            raise BabelRSError(f"{folder} holds shards already.", "Name another folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BabelRSError(f"Cannot write to {folder}: {error.strerror}.", "Name another folder.") from error

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()
        if kind is None:  # without an index nothing is taken for a whole set
            shards = [{"file": shard_name(n), "samples": samples} for n, samples in enumerate(self._counts)]
            text = json.dumps({"schema": SCHEMA, "shards": shards}, indent=1)
            (self.folder / INDEX_NAME).write_text(text + "\n")

    def add(self, row: Mapping[str, Any], images: Sequence[tuple[str, bytes]]) -> None:
        """Append a sample.

        Args:
            row: In the published format.
            images: File ending (``.jpg``) and content of each image.
        """
        if self._tar is None or self._counts[-1] >= self.shard_samples:
            self._next()
        key = f"{len(self._counts) - 1:05d}-{self._counts[-1]:06d}"
        self._file(f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
        for number, (ending, data) in enumerate(images):
            self._file(f"{key}.{number}{ending}", data)
        self._counts[-1] += 1

    def _next(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._counts.append(0)
        path = self.folder / shard_name(len(self._counts) - 1)
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed with the writer)

    def _file(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)  # times and owners stay 0: the same rows give the same bytes
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.tar"
