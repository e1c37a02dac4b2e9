"""The bundle: all that goes on board, as a folder or as one uncompressed ``.babelrs`` tar of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError, collected
from babelrs.manifest import MANIFEST_NAME, SCHEMA, SIGNATURE_NAME, Manifest, SensorEntry, is_plain_name
from babelrs.sensors import Sensor

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA",
    "Bundle",
    "Manifest",
    "SelfTest",
    "SensorEntry",
    "cache_folder",
    "open_bundle",
    "pack_bundle",
    "read_selftest",
    "sha256_of",
    "verify_files",
    "write_manifest",
    "write_selftest",
]

MAX_FILES = 64
MAX_FILE_BYTES = 4 << 30
MAX_MANIFEST_BYTES = 16 << 20
MAX_SELFTEST_BYTES = 256 << 20

_UNLISTED = (MANIFEST_NAME, SIGNATURE_NAME)
_FETCH_AGAIN = "Fetch the bundle again."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: Where its files are.
        manifest: What it says about itself.
        digest: SHA-256 of ``manifest.json``, hexadecimal: names the bundle, since the manifest hashes all the rest.
    """

    folder: Path
    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class SelfTest:
    """A known input of one graph and the outputs it must give.

    Attributes:
        pixels: ``(1, H, W, C)`` uint8.
        boxes: ``(1, K, 5)`` float32.
        scores: ``(1, K)`` float32, descending.
        labels: ``(1, K)`` int32.
        score_tolerance: Largest allowed difference of a score.
        box_tolerance_px: Largest allowed difference of a box coordinate, pixels (and of an angle, radians, times half
            the long side).
        min_score: Candidates below it are not compared: the order of what INT8 can hardly tell apart is its own.
    """

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    score_tolerance: float
    box_tolerance_px: float
    min_score: float = 0.0


def open_bundle(path: str | Path, cache: str | Path | None = None) -> Bundle:
    """Open a bundle and parse its manifest; :func:`verify_files` then checks the files.

    Args:
        path: A bundle folder, or a ``.babelrs`` archive, which is unpacked once into a folder named by its SHA-256.
        cache: Where archives are unpacked; ``None``: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder.

    Raises:
        BabelRSError: There is no bundle there, the archive is damaged or unsafe, or the manifest is wrong.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise BabelRSError(f"{path}: no such bundle.", "Name a bundle folder or a .babelrs file.")
    return _open_archive(path, cache_folder() if cache is None else Path(cache))


def _open_folder(folder: Path) -> Bundle:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BabelRSError(
            f"{folder}: no {MANIFEST_NAME} in it, so it is no bundle.", "Name a bundle folder or a .babelrs file."
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BabelRSError(f"{path}: {path.stat().st_size} bytes, too many for a manifest.", _FETCH_AGAIN)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BabelRSError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).", _FETCH_AGAIN) from None
    return Bundle(folder, Manifest.from_json(text, str(path)), hashlib.sha256(data).hexdigest())


def verify_files(bundle: Bundle) -> None:
    """Check that the bundle holds exactly the listed files, unaltered.

    Raises:
        BabelRSError: Names every missing, altered and extra file.
    """
    listed = bundle.manifest.files
    faults = []
    for name in sorted(listed):
        path = bundle.folder / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif (digest := sha256_of(path)) != listed[name]:
            faults.append(f"{path}: altered (SHA-256 {digest[:16]}..., listed {listed[name][:16]}...)")
    present = sorted(path.name for path in bundle.folder.iterdir())
    faults += [
        f"{bundle.folder / name}: not listed" for name in present if name not in listed and name not in _UNLISTED
    ]
    if faults:
        raise collected(f"The bundle {bundle.folder} is not as it was made", faults, _FETCH_AGAIN)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: str | Path, manifest: Manifest) -> Bundle:
    """Write ``manifest.json`` with the hashes of all files in ``folder``, which makes it a bundle.

    Args:
        folder: Holds the graphs, weights and self-tests, and nothing else.
        manifest: Its ``files`` are replaced by what is there.

    Raises:
        BabelRSError: The folder holds another folder, too many files, or a file whose name is not plain; or the
            manifest contradicts itself.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.name not in _UNLISTED)
    wrong = [name for name in names if not is_plain_name(name) or not (folder / name).is_file()]
    if wrong or len(names) > MAX_FILES:
        raise BabelRSError(
            f"{folder}: {len(names)} files, not plain: {wrong}.", "Write the bundle into a folder of its own."
        )
    text = replace(manifest, files={name: sha256_of(folder / name) for name in names}).to_json()
    Manifest.from_json(text, str(folder / MANIFEST_NAME))
    (folder / MANIFEST_NAME).write_bytes(text.encode("utf-8"))
    return _open_folder(folder)


def pack_bundle(bundle: Bundle, archive: str | Path) -> Path:
    """Write a bundle as one uncompressed tar: same bundle, same bytes.

    Args:
        bundle: An opened bundle; its files are verified first.
        archive: The file to write, ``NAME.babelrs``.

    Raises:
        BabelRSError: The bundle is not as it was made.
    """
    verify_files(bundle)
    archive = Path(archive)
    names = [MANIFEST_NAME, *sorted(bundle.manifest.files)]
    if (bundle.folder / SIGNATURE_NAME).is_file():
        names.insert(1, SIGNATURE_NAME)
    partial = archive.with_name(archive.name + ".part")
    with tarfile.open(partial, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = (bundle.folder / name).stat().st_size, 0o644
            with (bundle.folder / name).open("rb") as stream:
                tar.addfile(member, stream)
    os.replace(partial, archive)
    return archive


def cache_folder() -> Path:
    """Where files are kept that can be made again: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder."""
    named = os.environ.get("BABELRS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "babelrs"


def _open_archive(archive: Path, cache: Path) -> Bundle:
    folder = cache / sha256_of(archive)
    if folder.is_dir():
        try:
            bundle = _open_folder(folder)
            verify_files(bundle)
            return bundle
        except BabelRSError:  # the unpacked copy was damaged; the archive is the truth
            shutil.rmtree(folder)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".unpack-") as partial:
            unpacked = Path(partial) / "bundle"
            unpacked.mkdir()
            _extract(archive, unpacked)
            if not folder.is_dir():  # else another process was faster; its copy is the same
                os.replace(unpacked, folder)
    except OSError as error:
        raise BabelRSError(
            f"{cache}: {archive} cannot be unpacked there ({error.strerror}).", "Set BABELRS_CACHE."
        ) from None
    return _open_folder(folder)


def _extract(archive: Path, folder: Path) -> None:
    """Unpack regular files of plain names, within limits; nothing else that a tar can hold."""
    try:
        with tarfile.open(archive, "r:") as tar:
            seen: set[str] = set()
            for member in tar:
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not is_plain_name(member.name):
                    raise BabelRSError(
                        f"{archive}: holds {member.name!r}, which is no plain file.", "Do not use this archive."
                    )
                if member.name in seen or len(seen) >= MAX_FILES or member.size > MAX_FILE_BYTES:
                    raise BabelRSError(
                        f"{archive}: {member.name!r} is double, too large or too many.", "Do not use this archive."
                    )
                seen.add(member.name)
                stream = tar.extractfile(member)
                if stream is not None:
                    with stream, (folder / member.name).open("wb") as out:
                        shutil.copyfileobj(stream, out, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise BabelRSError(f"{archive}: a damaged .babelrs archive ({error}).", _FETCH_AGAIN) from None


def write_selftest(path: str | Path, selftest: SelfTest) -> None:
    """Write self-test vectors as ``.npz``; same vectors, same bytes."""
    with Path(path).open("wb") as stream:
        np.savez_compressed(
            stream,
            pixels=selftest.pixels,
            boxes=selftest.boxes,
            scores=selftest.scores,
            labels=selftest.labels,
            score_tolerance=np.float64(selftest.score_tolerance),
            box_tolerance_px=np.float64(selftest.box_tolerance_px),
            min_score=np.float64(selftest.min_score),
        )


def read_selftest(bundle: Bundle, sensor: Sensor) -> SelfTest:
    """The self-test of a sensor's graph.

    Raises:
        BabelRSError: The sensor is not in the bundle, or its file is missing or not a self-test of this graph.
    """
    entry = bundle.manifest.entry(sensor)
    path = bundle.folder / entry.selftest
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_SELFTEST_BYTES:
                raise ValueError("unpacks to too many bytes")
        with np.load(path, allow_pickle=False) as arrays:
            found = SelfTest(
                arrays["pixels"].astype(np.uint8),
                arrays["boxes"].astype(np.float32),
                arrays["scores"].astype(np.float32),
                arrays["labels"].astype(np.int32),
                float(arrays["score_tolerance"]),
                float(arrays["box_tolerance_px"]),
                float(arrays["min_score"]) if "min_score" in arrays else 0.0,  # bundles of before 0.2 compare all
            )
    except Exception as error:  # NumPy lets through what its tokenizer, zlib and zipfile raise
        raise BabelRSError(f"{path}: not a self-test ({error}).", _FETCH_AGAIN) from None
    if found.pixels.shape != (1, entry.input_height, entry.input_width, entry.channels):
        raise BabelRSError(f"{path}: pixels {found.pixels.shape} do not fit the {sensor} graph.", _FETCH_AGAIN)
    return found
