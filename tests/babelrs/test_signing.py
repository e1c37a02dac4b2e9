"""A signature holds for exactly the bytes and the key it was made with, and every wrong key file is told apart."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from babelrs.signing import PrivateKey, PublicKey, read_private_key, read_public_key, write_key_pair
from tests.unprivileged import permissions_count

pytest.importorskip("cryptography", reason="signatures need the extra [sign]")

from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

# RFC 8032, section 7.1, TEST 3.
SECRET = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
PUBLIC = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
MESSAGE = bytes.fromhex("af82")
SIGNATURE = bytes.fromhex(
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)


def private_pem(key: object, password: bytes | None = None) -> bytes:
    hidden = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, hidden)  # type: ignore[attr-defined, no-any-return]


def public_pem(key: object) -> bytes:
    return key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[PrivateKey, PublicKey]:
    private, public = write_key_pair(tmp_path / "key")
    return read_private_key(private), read_public_key(public)


def test_signatures_are_those_of_rfc_8032(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem(ed25519.Ed25519PrivateKey.from_private_bytes(SECRET)))
    (tmp_path / "key.pub.pem").write_bytes(public_pem(ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC)))
    assert read_private_key(tmp_path / "key.pem").sign(MESSAGE) == SIGNATURE
    public = read_public_key(tmp_path / "key.pub.pem")
    public.check(MESSAGE, SIGNATURE, "test")
    assert public.key_id == hashlib.sha256(PUBLIC).hexdigest()[:16]


def test_no_other_byte_and_no_other_signature_passes(keys: tuple[PrivateKey, PublicKey]) -> None:
    private, public = keys
    manifest = b"a manifest"
    signature = private.sign(manifest)
    public.check(manifest, signature, "test")
    altered = [(manifest + b" ", signature), (manifest[:-1], signature), (b"", signature)]
    for place in range(64):
        changed = bytearray(signature)
        changed[place] ^= 1
        altered.append((manifest, bytes(changed)))
    for data, each in altered:
        with pytest.raises(BabelRSError, match=f"altered, or was not signed with the key {public.key_id}"):
            public.check(data, each, "test")
    for each in (b"", signature[:-1], signature + b"\0", signature * 2):
        with pytest.raises(BabelRSError, match=f"has {len(each)} bytes"):
            public.check(manifest, each, "test")


def test_another_key_does_not_pass(keys: tuple[PrivateKey, PublicKey], tmp_path: Path) -> None:
    _, public = write_key_pair(tmp_path / "other")
    with pytest.raises(BabelRSError, match="not signed with the key"):
        read_public_key(public).check(b"a manifest", keys[0].sign(b"a manifest"), "test")


def test_only_the_owner_may_read_the_private_key_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, public = write_key_pair(tmp_path / "key")
    finally:
        os.umask(before)
    assert (private.name, public.name) == ("key.pem", "key.pub.pem")
    assert [path.stat().st_mode & 0o777 for path in (private, public)] == [0o600, 0o644]


@pytest.mark.parametrize("there", ["key.pem", "key.pub.pem"])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).symlink_to("nowhere")  # not even through a link
    with pytest.raises(BabelRSError, match="there already"):
        write_key_pair(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there] and not (tmp_path / "nowhere").exists()


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match="cannot be written"):
        write_key_pair(tmp_path / "no" / "key")
    assert not list(tmp_path.iterdir())


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
OURS = ed25519.Ed25519PrivateKey.from_private_bytes(SECRET)
WRONG_PUBLIC = {
    "an RSA key": (public_pem(RSA.public_key()), "RSAPublicKey, where an Ed25519 key belongs"),
    "an elliptic curve's": (public_pem(CURVE.public_key()), "where an Ed25519 key belongs"),
    "a private key": (private_pem(OURS), "a private key, where the public one belongs"),
    "an encrypted private key": (private_pem(OURS, b"secret"), "a private key, where the public one belongs"),
    "nothing": (b"", "empty"),
    "binary": (b"\0\xff" * 40, "no BEGIN line"),
    "the bare key": (PUBLIC, "no BEGIN line"),
    "half a key": (public_pem(OURS.public_key())[:60], "no readable public key"),
    "other letters": (public_pem(OURS.public_key()).replace(b"MC", b"!!"), "no readable public key"),
    "a certificate's name": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no readable public"),
    "too much": (b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 70000, "too many for a key"),
}
WRONG_PRIVATE = {
    "an RSA key": (private_pem(RSA), "RSAPrivateKey, where an Ed25519 key belongs"),
    "a public key": (public_pem(OURS.public_key()), "no private key"),
    "an encrypted key": (private_pem(OURS, b"secret"), r"the private key is encrypted.*openssl pkey"),
    "nothing": (b" \n", "empty"),
    "binary": (SECRET, "no BEGIN line"),
    "half a key": (private_pem(OURS)[:80] + b"\n-----END PRIVATE KEY-----\n", "no readable private key"),
}


@pytest.mark.parametrize("name", WRONG_PUBLIC)
def test_what_is_no_public_key_is_named(name: str, tmp_path: Path) -> None:
    content, said = WRONG_PUBLIC[name]
    (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(BabelRSError, match=said) as caught:
        read_public_key(tmp_path / "k.pem")
    assert str(tmp_path / "k.pem") in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("name", WRONG_PRIVATE)
def test_what_is_no_private_key_is_named(name: str, tmp_path: Path) -> None:
    content, said = WRONG_PRIVATE[name]
    (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(BabelRSError, match=said) as caught:
        read_private_key(tmp_path / "k.pem")
    assert str(tmp_path / "k.pem") in str(caught.value) and caught.value.remedy


def test_a_key_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    private, public = write_key_pair(tmp_path / "key")
    public.chmod(0)
    with permissions_count(), pytest.raises(BabelRSError, match="cannot be read"):
        read_public_key(public)
    for path, said in ((tmp_path / "none.pem", "missing"), (tmp_path, "not a regular file")):
        with pytest.raises(BabelRSError, match=said):
            read_private_key(path)
    (tmp_path / "linked.pem").symlink_to(private)
    assert read_private_key(tmp_path / "linked.pem").public.key_id == read_private_key(private).public.key_id


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, public = write_key_pair(tmp_path / "key")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use in (lambda: read_public_key(public), lambda: write_key_pair(tmp_path / "other")):
        with pytest.raises(BabelRSError, match=r"need the package cryptography.*pip install 'babelrs\[sign\]'"):
            use()


def test_the_package_is_loaded_with_a_key_and_not_before(repository: Path) -> None:
    code = (
        "import sys, babelrs.bundle, babelrs.signing, runtime.cli, runtime.sign; print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
