"""The bundle: all that goes on board, as a folder or as one uncompressed ``.babelrs`` tar of it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.archive import MAX_FILE_BYTES, extract, read_head, read_members, write_archive
from babelrs.errors import BabelRSError, collected
from babelrs.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    SCHEMA,
    SIGNATURE_BYTES,
    SIGNATURE_NAME,
    Manifest,
    SensorEntry,
    is_plain_name,
)
from babelrs.plain_files import is_there, open_plain, read_plain, sha256_of, sha256_of_stream
from babelrs.selftest_file import SelfTest, read_selftest, write_selftest

if TYPE_CHECKING:
    from babelrs.signing import PublicKey

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA",
    "Bundle",
    "Manifest",
    "SelfTest",
    "SensorEntry",
    "cache_folder",
    "open_bundle",
    "open_trusted",
    "pack_bundle",
    "read_selftest",
    "sha256_of",
    "verify_files",
    "write_manifest",
    "write_selftest",
]

SPARE_BYTES = 64 << 20
"""What must stay free of the disk that an archive is unpacked on."""

_UNLISTED = (MANIFEST_NAME, SIGNATURE_NAME)
_UNPACKING = ".unpack-"
_FETCH_AGAIN = "Fetch the bundle again."


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: Where its files are.
        manifest: What it says about itself.
        digest: SHA-256 of ``manifest.json``, hexadecimal: names the bundle, since the manifest hashes all the rest.
        is_signed: Whether a signature lies beside the manifest, right or wrong.
        key_id: Which key it was checked with and found right; empty where it was not checked.
    """

    folder: Path
    manifest: Manifest
    digest: str
    is_signed: bool = False
    key_id: str = ""


def open_bundle(path: str | Path, cache: str | Path | None = None, key: PublicKey | None = None) -> Bundle:
    """Open a bundle and parse its manifest; :func:`verify_files` then checks the files.

    Args:
        path: A bundle folder, or a ``.babelrs`` archive, which is unpacked once into a folder named by its SHA-256.
        cache: Where archives are unpacked; ``None``: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder.
        key: Only bundles signed with it are opened: of others nothing is parsed or unpacked. ``None``: all are.

    Raises:
        BabelRSError: There is no bundle there, it is not signed with the key, the archive is damaged or unsafe, or the
            manifest is wrong.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = f"{path}: no such bundle ({error.strerror})."
        raise BabelRSError(what, "Name a bundle folder or a .babelrs file.") from None
    except ValueError:  # a zero byte in it
        raise BabelRSError(f"{str(path)!a}: no such bundle.", "Name a bundle folder or a .babelrs file.") from None
    if stat.S_ISDIR(mode):
        return _open_folder(path, key)
    if not stat.S_ISREG(mode):
        raise BabelRSError(f"{path}: no such bundle.", "Name a bundle folder or a .babelrs file.")
    return _open_archive(path, cache_folder() if cache is None else Path(cache), key)


def open_trusted(path: str | Path, key_path: str | Path | None = None, cache: str | Path | None = None) -> Bundle:
    """Open a bundle and check its files, and its signature where a key is named.

    Args:
        path: As of :func:`open_bundle`.
        key_path: The PEM file of the public key that must have signed it; ``None``: signatures are not looked at.
        cache: As of :func:`open_bundle`.

    Raises:
        BabelRSError: As :func:`open_bundle` and :func:`verify_files`; or the key cannot be read.
    """
    key = None
    if key_path is not None:
        from babelrs.signing import read_public_key

        key = read_public_key(key_path)
    bundle = open_bundle(path, cache, key)
    verify_files(bundle)
    return bundle


def _open_folder(folder: Path, key: PublicKey | None = None) -> Bundle:
    path = folder / MANIFEST_NAME
    if not is_there(path):
        raise BabelRSError(
            f"{folder}: no {MANIFEST_NAME} in it, so it is no bundle.", "Name a bundle folder or a .babelrs file."
        )
    data = read_plain(path, MAX_MANIFEST_BYTES, "a manifest")
    is_signed = is_there(folder / SIGNATURE_NAME)
    if key is not None:
        _refuse_foreign(folder)
        if not is_signed:
            raise BabelRSError(f"{folder}: unsigned; no {SIGNATURE_NAME} in it.", "Sign it: babelrs-sign.")
        key.check(data, read_plain(folder / SIGNATURE_NAME, SIGNATURE_BYTES, "a signature"), folder)
    manifest = Manifest.from_bytes(data, str(path))  # the bytes that were checked; the file may be another by now
    return Bundle(folder, manifest, hashlib.sha256(data).hexdigest(), is_signed, "" if key is None else key.key_id)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder in which another user could change files between their check and their use."""
    if _is_foreign(folder.stat()):
        what = f"{folder}: other users may write to it, so a signature holds for no moment longer than its check."
        remedy = (
            "Own it and take others' right to write; or name the archive, which is unpacked into a folder of yours."
        )
        raise BabelRSError(what, remedy)


def _is_foreign(found: os.stat_result) -> bool:
    return found.st_uid not in (os.geteuid(), 0) or bool(found.st_mode & stat.S_IWOTH)


def verify_files(bundle: Bundle) -> None:
    """Check that the bundle holds exactly the listed files, unaltered; links and pipes are no such files.

    Of a bundle whose signature was checked, no file may be one that other users can write to: it could be another by
    the time it is used.

    Raises:
        BabelRSError: Names every missing, altered and extra file.
    """
    listed = bundle.manifest.files
    faults = []
    for name in sorted(listed):
        if fault := _fault_of(bundle.folder / name, listed[name], bool(bundle.key_id)):
            faults.append(fault)
    try:
        present = sorted(path.name for path in islice(bundle.folder.iterdir(), 16 * MAX_FILES))
    except OSError as error:
        raise BabelRSError(f"{bundle.folder}: cannot be read ({error.strerror}).", "Check its permissions.") from None
    faults += [
        f"{bundle.folder / name}: not listed" for name in present if name not in listed and name not in _UNLISTED
    ]
    if faults:
        raise collected(f"The bundle {bundle.folder} is not as it was made", faults, _FETCH_AGAIN)


def _fault_of(path: Path, listed: str, own: bool) -> str:
    """What is wrong with a listed file, in words; empty if nothing is."""
    try:
        with open_plain(path) as stream:
            found = os.fstat(stream.fileno())
            if found.st_size > MAX_FILE_BYTES:
                return f"{path}: {found.st_size} bytes, too many"
            if own and _is_foreign(found):
                return f"{path}: other users may write to it"
            digest = sha256_of_stream(stream, path)
    except BabelRSError as error:
        return error.what.rstrip(".")
    return "" if digest == listed else f"{path}: altered (SHA-256 {digest[:16]}..., listed {listed[:16]}...)"


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
        BabelRSError: The bundle is not as it was made, or the archive cannot be written.
    """
    verify_files(bundle)
    archive = Path(archive)
    names = [MANIFEST_NAME, *sorted(bundle.manifest.files)]
    if (bundle.folder / SIGNATURE_NAME).is_file():
        names.insert(1, SIGNATURE_NAME)
    write_archive(archive, bundle.folder, names)
    return archive


def cache_folder() -> Path:
    """Where files are kept that can be made again: ``$BABELRS_CACHE``, else ``babelrs`` in the user's cache folder."""
    named = os.environ.get("BABELRS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "babelrs"


def _open_archive(archive: Path, cache: Path, key: PublicKey | None) -> Bundle:
    with open_plain(archive, follow=True) as stream:
        if key is not None:
            key.check(*read_head(stream, archive), archive)
        members = read_members(stream, archive)
        stream.seek(0)
        folder = cache / sha256_of_stream(stream, archive)
        try:
            if (bundle := _unpacked(folder, key)) is not None:
                return bundle
            cache.mkdir(parents=True, exist_ok=True)
            with _unpacking(cache) as made:
                _refuse_full(cache, sum(member.size for member in members))
                extract(stream, members, made, archive)
                _move(made, folder)
        except OSError as error:
            what = f"{cache}: {archive} cannot be unpacked there ({error.strerror})."
            raise BabelRSError(what, "Set BABELRS_CACHE.") from None
    return _open_folder(folder, key)


@contextmanager
def _unpacking(cache: Path) -> Iterator[Path]:
    """A new folder to unpack into. It is locked meanwhile; what is not, a killed process left, and it goes."""
    for left in cache.glob(f"{_UNPACKING}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=cache, prefix=_UNPACKING) as partial, _locked(Path(partial)):
        (made := Path(partial) / "bundle").mkdir(mode=0o700)
        yield made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder.

    Raises:
        OSError: Another process does.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _unpacked(folder: Path, key: PublicKey | None) -> Bundle | None:
    """The copy that was unpacked earlier; None where there is none, or it is damaged and was removed."""
    if folder.is_symlink():
        folder.unlink()
    if not folder.is_dir():
        return None
    try:
        bundle = _open_folder(folder, key)
        verify_files(bundle)
        return bundle
    except BabelRSError:  # the archive is the truth
        shutil.rmtree(folder)
        return None


def _move(made: Path, folder: Path) -> None:
    try:
        os.replace(made, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was faster; its copy is the same
            raise


def _refuse_full(cache: Path, size: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < size + SPARE_BYTES:
        what = f"{cache}: unpacking needs {size + SPARE_BYTES >> 20} MiB, and {free >> 20} MiB are free."
        raise BabelRSError(what, "Free space there, or set BABELRS_CACHE.")
