"""Signs bundles in place: a folder gets its signature, an archive is written again with it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from babelrs.bundle import Bundle, open_bundle, pack_bundle, verify_files
from babelrs.errors import BabelRSError
from babelrs.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME
from babelrs.plain_files import read_plain
from babelrs.signing import PrivateKey

_PARTIAL = f".{SIGNATURE_NAME}.part"


def sign_folder(folder: Path, key: PrivateKey, archive: Path | None = None) -> Path:
    """Write ``manifest.sig`` into a bundle folder.

    Args:
        folder: The bundle.
        key: Signs.
        archive: Where to pack the signed bundle as well; ``None``: nowhere.

    Returns:
        What was written: the signature, or the archive.

    Raises:
        BabelRSError: The bundle is not as it was made, or something cannot be written.
    """
    with suppress(OSError):
        (folder / _PARTIAL).unlink()  # what a killed run left would count as a file that is not listed
    bundle = _sign_verified(open_bundle(folder), key)
    return bundle.folder / SIGNATURE_NAME if archive is None else pack_bundle(bundle, archive)


def sign_archive(archive: Path, key: PrivateKey, out: Path) -> Path:
    """Write an archive again with its signature; the file is there whole or not at all.

    Args:
        archive: The bundle.
        key: Signs.
        out: The archive to write; may be the same.

    Returns:
        ``out``.

    Raises:
        BabelRSError: The bundle is not as it was made, or ``out`` cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".sign-") as beside:
            return pack_bundle(_sign_verified(open_bundle(archive, beside), key), out)
    except OSError as error:
        what = f"{out.parent}: cannot be written to ({error.strerror})."
        raise BabelRSError(what, "Name another place with --out.") from None


def _sign_verified(bundle: Bundle, key: PrivateKey) -> Bundle:
    """Sign a bundle whose files match its manifest, as the folder holds it now."""
    verify_files(bundle)
    manifest = read_plain(bundle.folder / MANIFEST_NAME, MAX_MANIFEST_BYTES, "a manifest")
    if hashlib.sha256(manifest).hexdigest() != bundle.digest:
        raise BabelRSError(f"{bundle.folder}: the manifest changed while it was checked.", "Sign it again.")
    partial, path = bundle.folder / _PARTIAL, bundle.folder / SIGNATURE_NAME
    try:
        with partial.open("wb") as stream:
            stream.write(key.sign(manifest))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise BabelRSError(f"{path}: cannot be written ({error.strerror}).", "Sign a copy of the bundle.") from None
    return replace(bundle, is_signed=True)
