"""Ed25519 signatures of manifests: who made a bundle, decided offline and before a byte of it is parsed.

The manifest holds the SHA-256 of every other file, so a signature of the manifest's bytes covers the bundle. It is the
64 raw bytes of RFC 8032 in ``manifest.sig``. Keys are PEM files, as OpenSSL writes them too: PKCS #8 without a
passphrase for the private key, X.509 SubjectPublicKeyInfo for the public key.

The package cryptography computes it; it is loaded when a key is, and not before.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babelrs.errors import BabelRSError
from babelrs.manifest import SIGNATURE_BYTES
from babelrs.plain_files import read_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 1 << 16
_MAKE_KEYS = "Make a pair of keys with babelrs-sign --new-key PREFIX."


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        key_id: The first 16 hexadecimal digits of the SHA-256 of its 32 bytes: how people tell keys apart.
        path: The file it came from, for messages.
    """

    key_id: str
    path: Path
    _key: Ed25519PublicKey

    def check(self, manifest: bytes, signature: bytes, source: object) -> None:
        """Check a signature.

        Args:
            manifest: The signed bytes.
            signature: The signature.
            source: The bundle, for messages.

        Raises:
            BabelRSError: It is not this key's signature of these bytes.
        """
        from cryptography.exceptions import InvalidSignature

        if len(signature) != SIGNATURE_BYTES:
            what = f"{source}: the signature has {len(signature)} bytes, where {SIGNATURE_BYTES} belong."
            raise BabelRSError(what, "Fetch the bundle again.")
        try:
            self._key.verify(signature, manifest)
        except InvalidSignature:
            what = f"{source}: the manifest is altered, or was not signed with the key {self.key_id} ({self.path})."
            raise BabelRSError(what, "Do not use this bundle.") from None


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs.

    Attributes:
        public: Its public half.
    """

    public: PublicKey
    _key: Ed25519PrivateKey

    def sign(self, manifest: bytes) -> bytes:
        """The signature of a manifest's bytes, 64 bytes; the same for the same bytes."""
        return self._key.sign(manifest)


def read_public_key(path: str | Path) -> PublicKey:
    """Read a public key.

    Raises:
        BabelRSError: The file cannot be read, holds no public Ed25519 key in PEM, or cryptography is not installed.
    """
    path = Path(path)
    data = _read_pem(path, "public")
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except Exception as error:  # ValueError, and what the library calls an unsupported algorithm
        raise _unreadable(path, "public", error) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_kind(path, key)
    return _public(key, path)


def read_private_key(path: str | Path) -> PrivateKey:
    """Read a private key.

    Raises:
        BabelRSError: The file cannot be read, holds no private Ed25519 key in PEM, is encrypted, or cryptography is not
            installed.
    """
    path = Path(path)
    data = _read_pem(path, "private")
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        remedy = f"Take the passphrase off: openssl pkey -in {path} -out PLAIN.pem."
        raise BabelRSError(f"{path}: the private key is encrypted.", remedy) from None
    except Exception as error:  # as above
        raise _unreadable(path, "private", error) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _wrong_kind(path, key)
    return PrivateKey(_public(key.public_key(), path), key)


def write_key_pair(prefix: str | Path) -> tuple[Path, Path]:
    """Make a pair of keys: ``PREFIX.pem``, which only its owner may read, and ``PREFIX.pub.pem``.

    Raises:
        BabelRSError: One of the files is there already or cannot be written, or cryptography is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    paths = Path(f"{prefix}.pem"), Path(f"{prefix}.pub.pem")
    if there := [str(path) for path in paths if os.path.lexists(path)]:
        raise BabelRSError(f"{', '.join(there)}: there already.", "Keys are never overwritten; give another PREFIX.")
    _write_new(paths[0], private, 0o600)
    try:
        _write_new(paths[1], public, 0o644)
    except BabelRSError:
        paths[0].unlink()
        raise
    return paths


def _read_pem(path: Path, wanted: str) -> bytes:
    """The file of a key, refused where its first line says that it is something else."""
    data = read_plain(path, MAX_KEY_BYTES, "a key", follow=True)
    if b"-----BEGIN " not in data:
        what = f"{path}: no key in PEM ({'empty' if not data.strip() else 'no BEGIN line'})."
        raise BabelRSError(what, _MAKE_KEYS)
    is_private = b"PRIVATE KEY-----" in data
    if is_private and wanted == "public":
        what = f"{path}: a private key, where the public one belongs."
        raise BabelRSError(what, "Name PREFIX.pub.pem, and keep the private key on the ground.")
    if not is_private and wanted == "private":
        raise BabelRSError(f"{path}: no private key.", "Name PREFIX.pem, which babelrs-sign --new-key wrote.")
    return data


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        what = f"Signatures need the package cryptography ({error})."
        raise BabelRSError(what, "Install it: pip install 'babelrs[sign]'.") from None


def _public(key: Ed25519PublicKey, path: Path) -> PublicKey:
    return PublicKey(hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16], path, key)


def _unreadable(path: Path, wanted: str, error: Exception) -> BabelRSError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return BabelRSError(f"{path}: no readable {wanted} key ({reason}).", _MAKE_KEYS)


def _wrong_kind(path: Path, key: Any) -> BabelRSError:
    kind = type(key).__name__.strip("_")
    return BabelRSError(f"{path}: {kind}, where an Ed25519 key belongs.", _MAKE_KEYS)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)  # whatever the umask
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise BabelRSError(f"{path}: there already.", "Keys are never overwritten; give another PREFIX.") from None
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise BabelRSError(f"{path}: cannot be written ({error.strerror}).", "Name another PREFIX.") from None
