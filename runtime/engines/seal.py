"""The key of an engine cache, and the digests that it makes: what is loaded was written here, by this user.

A hash beside a file shows damage, not malice: whoever writes another engine writes another hash. So the records of the
cache carry an HMAC-SHA256 under a key that lies in the cache folder and that only its owner can read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from babelrs.errors import BabelRSError, DeviceError
from babelrs.plain_files import read_plain

KEY_NAME = "seal.key"
KEY_BYTES = 32
SEAL_BYTES = 32
_JSON_HEAD, _JSON_TAIL = b'{"seal": "', b'",\n'


@dataclass(frozen=True)
class Seal:
    """Makes and checks keyed digests.

    Attributes:
        key: 32 random bytes.
    """

    key: bytes

    def digest(self, kind: str, content: bytes) -> bytes:
        """The digest of content of one kind; 32 bytes that say nothing of another kind."""
        return hmac.new(self.key, kind.encode() + b"\0" + content, hashlib.sha256).digest()

    def sealed_json(self, kind: str, text: str) -> bytes:
        """A JSON object with its digest as a first field ``seal``.

        Args:
            kind: What it is.
            text: The object; begins with ``{`` and a line break, and has a field.
        """
        content = text.encode("utf-8")
        return _JSON_HEAD + self.digest(kind, content).hex().encode() + _JSON_TAIL + content[2:]

    def opened_json(self, kind: str, data: bytes) -> str:
        """The text that :meth:`sealed_json` sealed; nothing of it is parsed.

        Raises:
            ValueError: It has no digest, or another one.
        """
        found, content = _split(data)
        if not hmac.compare_digest(found, self.digest(kind, content).hex().encode()):
            raise ValueError("its digest is not of this cache's key")
        return content.decode("utf-8")

    def sealed(self, kind: str, content: bytes) -> bytes:
        """Bytes behind their digest."""
        return self.digest(kind, content) + content

    def opened(self, kind: str, data: bytes) -> bytes:
        """The bytes that :meth:`sealed` sealed.

        Raises:
            ValueError: Their digest is another.
        """
        content = data[SEAL_BYTES:]
        if not hmac.compare_digest(data[:SEAL_BYTES], self.digest(kind, content)):
            raise ValueError("its digest is not of this cache's key")
        return content


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The hexadecimal digest of sealed JSON, and the JSON without it."""
    start, end = len(_JSON_HEAD), len(_JSON_HEAD) + 2 * SEAL_BYTES
    if not data.startswith(_JSON_HEAD) or data[end : end + len(_JSON_TAIL)] != _JSON_TAIL:
        raise ValueError("it carries no digest")
    return data[start:end], b"{\n" + data[end + len(_JSON_TAIL) :]


def open_seal(folder: Path) -> Seal | None:
    """The seal of a cache folder; None where it has no key yet, so that nothing in it can be genuine.

    Raises:
        DeviceError: The key cannot be read, others can read it, or it is none.
    """
    path = folder / KEY_NAME
    again = f"Remove {path} and run babelrs-build again."
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"{path}: the key of the engine cache cannot be read ({error.strerror})."
        raise DeviceError(what, "Run as the user who built.") from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o077:
        raise DeviceError(f"{path}: others can read the key of the engine cache, or own it.", again)
    try:
        key = read_plain(path, KEY_BYTES, "a key")
    except BabelRSError as error:
        raise DeviceError(error.what, again) from None
    if len(key) != KEY_BYTES:
        raise DeviceError(f"{path}: {len(key)} bytes, where a key has {KEY_BYTES}.", again)
    return Seal(key)


def make_seal(folder: Path) -> Seal:
    """The seal of a cache folder, made now where it has none; of several processes that make one, all get the same.

    Raises:
        BabelRSError: The folder cannot be written to.
        DeviceError: As :func:`open_seal`.
    """
    if (seal := open_seal(folder)) is not None:
        return seal
    partial = folder / f".part-{os.getpid()}-{KEY_NAME}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster
            os.link(partial, folder / KEY_NAME)
    except OSError as error:
        what = f"{folder}: cannot be written to ({error.strerror})."
        raise BabelRSError(what, "Set BABELRS_CACHE or give --cache.") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    seal = open_seal(folder)
    if seal is None:
        raise DeviceError(f"{folder}: the key of the engine cache vanished.", "Run babelrs-build again.")
    return seal
