"""The faults a bundle can arrive with, each through the commands that open bundles: its exit code and what is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from babelrs.archive import read_head
from babelrs.bundle import Bundle, open_bundle, pack_bundle, write_manifest
from babelrs.errors import BabelRSError
from babelrs.manifest import Manifest
from babelrs.sensors import Sensor
from babelrs.signing import read_public_key, write_key_pair
from runtime import build, cli, sign, verify
from tests.unprivileged import permissions_count

pytest.importorskip("cryptography", reason="signatures need the extra [sign]")

Commands = dict[str, Callable[[list[str]], int]]
COMMANDS: Commands = {
    "babelrs-run": lambda given: cli.main(["none.png", "--sensor", "ir", "--bundle", *given]),
    "babelrs-verify": lambda given: verify.main(given),
    "babelrs-build": lambda given: build.main(given),
}


@dataclass(frozen=True)
class Signed:
    """A signed copy of the toy bundle, as a folder and as an archive, and the keys."""

    folder: Path
    archive: Path
    public: Path
    private: Path


@pytest.fixture
def signed(toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    monkeypatch.setenv("BABELRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.png").write_bytes(b"no image")  # a source that no command gets to read
    shutil.copytree(toy_bundle.folder, tmp_path / "bundle")
    private, public = write_key_pair(tmp_path / "key")
    archive = tmp_path / "toy.babelrs"
    assert sign.main([str(tmp_path / "bundle"), "--key", str(private), "--out", str(archive)]) == 0
    return Signed(tmp_path / "bundle", archive, public, private)


def other_key(signed: Signed) -> Path:
    return write_key_pair(signed.public.parent / "other")[1]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def swap_graphs(signed: Signed, again: bool = False) -> None:
    """The SAR graph under the infrared one's name; with the manifest made again as its maker would."""
    shutil.copyfile(signed.folder / "model.sar.onnx", signed.folder / "model.ir.onnx")
    if again:
        write_manifest(signed.folder, open_bundle(signed.folder).manifest)


def append(signed: Signed, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(signed.archive, "a:") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)


def pack_unsigned(signed: Signed) -> None:
    (signed.folder / "manifest.sig").unlink()
    pack_bundle(open_bundle(signed.folder), signed.archive)


def put_signature_last(signed: Signed) -> None:
    names = sorted(path.name for path in signed.folder.iterdir() if path.name != "manifest.sig")
    with tarfile.open(signed.archive, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name in [*names, "manifest.sig"]:
            tar.add(signed.folder / name, name)


@dataclass(frozen=True)
class Fault:
    """A cell of the matrix: what goes wrong, in which form of the bundle, and what is said."""

    cause: Callable[[Signed], object]
    said: str
    form: str = "folder"
    key: Callable[[Signed], Path] = lambda signed: signed.public


FAULTS = {
    "unsigned folder": Fault(lambda s: (s.folder / "manifest.sig").unlink(), "unsigned"),
    "unsigned archive": Fault(pack_unsigned, "unsigned", "archive"),
    "signature last in the archive": Fault(put_signature_last, "unsigned", "archive"),
    "wrong key, folder": Fault(lambda s: None, "was not signed with the key", key=other_key),
    "wrong key, archive": Fault(lambda s: None, "was not signed with the key", "archive", other_key),
    "private key named": Fault(lambda s: None, "a private key, where the public", key=lambda s: s.private),
    "no key file": Fault(lambda s: None, "missing", key=lambda s: s.folder / "no.pem"),
    "altered manifest": Fault(lambda s: flip(s.folder / "manifest.json", 40), "altered, or was not signed"),
    "altered manifest in the archive": Fault(lambda s: flip(s.archive, 552), "altered, or was not signed", "archive"),
    "altered signature": Fault(lambda s: flip(s.folder / "manifest.sig", 5), "altered, or was not signed"),
    "short signature": Fault(lambda s: os.truncate(s.folder / "manifest.sig", 63), "63 bytes"),
    "long signature": Fault(lambda s: os.truncate(s.folder / "manifest.sig", 1 << 30), "too many for a signature"),
    "altered graph": Fault(lambda s: flip(s.folder / "model.ir.onnx", 99), "model.ir.onnx: altered"),
    "truncated weights": Fault(lambda s: os.truncate(s.folder / "weights.bin", 3), "weights.bin: altered"),
    "missing graph": Fault(lambda s: (s.folder / "model.ir.onnx").unlink(), "model.ir.onnx: missing"),
    "extra file": Fault(lambda s: (s.folder / "evil.so").touch(), "evil.so: not listed"),
    "swapped graph": Fault(swap_graphs, "model.ir.onnx: altered"),
    "swapped graph, new manifest": Fault(lambda s: swap_graphs(s, True), "altered, or was not signed"),
    "manifest of 1 GB": Fault(lambda s: os.truncate(s.folder / "manifest.json", 1 << 30), "too many for a manifest"),
    "folder that others write to": Fault(lambda s: s.folder.chmod(0o777), "other users may write"),
    "file that others write to": Fault(lambda s: (s.folder / "weights.bin").chmod(0o666), "other users may write"),
    "escaping name": Fault(lambda s: append(s, "../evil"), "Do not use this archive", "archive"),
    "absolute name": Fault(lambda s: append(s, "/tmp/evil"), "Do not use this archive", "archive"),
    "link": Fault(lambda s: append(s, "evil", tarfile.SYMTYPE), "a symbolic link", "archive"),
    "truncated archive": Fault(lambda s: os.truncate(s.archive, 20_000), "it ends early", "archive"),
    "empty archive": Fault(lambda s: os.truncate(s.archive, 0), "it ends early", "archive"),
    "archive of 1 TB": Fault(lambda s: os.truncate(s.archive, 1 << 40), "goes on behind its end", "archive"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_a_signed_bundle_is_exit_2_and_said(
    signed: Signed, name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = FAULTS[name]
    fault.cause(signed)
    path = signed.folder if fault.form == "folder" else signed.archive
    capsys.readouterr()
    assert COMMANDS[command]([str(path), "--require-signature", str(fault.key(signed))]) == 2
    error = capsys.readouterr().err
    assert fault.said in error and "Traceback" not in error and error.rstrip().endswith(".")
    assert not list(signed.folder.parent.rglob("evil")) and not (signed.folder.parent / "out").exists()


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_signed_bundle_is_taken_and_the_key_named(
    signed: Signed, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = signed.folder if form == "folder" else signed.archive
    assert verify.main([str(path), "--require-signature", str(signed.public)]) == 0
    assert f"signature ok {read_public_key(signed.public).key_id}\n" in capsys.readouterr().out
    assert verify.main([str(path)]) == 0
    assert "signature present (not checked: name a key with --require-signature)\n" in capsys.readouterr().out


def test_an_archive_taken_before_is_checked_again_with_each_key(signed: Signed) -> None:
    key = read_public_key(signed.public)
    first, again = (open_bundle(signed.archive, key=key) for _ in range(2))
    assert first == again and first.key_id == key.key_id
    with pytest.raises(BabelRSError, match="not signed with the key"):
        open_bundle(signed.archive, key=read_public_key(other_key(signed)))


def test_an_unpacked_copy_whose_signature_is_altered_is_made_again(signed: Signed) -> None:
    key = read_public_key(signed.public)
    folder = open_bundle(signed.archive, key=key).folder
    flip(folder / "manifest.sig", 3)
    assert open_bundle(signed.archive, key=key).key_id == key.key_id


def test_the_demo_bundle_is_not_taken_for_signed(signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["none.png", "--sensor", "ir", "--require-signature", str(signed.public)]) == 2
    assert "demo: unsigned" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_nothing_is_parsed_or_unpacked_before_the_signature_holds(
    signed: Signed, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("babelrs.bundle.read_members", "babelrs.bundle.sha256_of_stream", "babelrs.bundle.extract"):
        monkeypatch.setattr(name, lambda *given: pytest.fail("looked further"))
    monkeypatch.setattr(Manifest, "from_bytes", lambda *given: pytest.fail("parsed"))
    path = signed.folder if form == "folder" else signed.archive
    with pytest.raises(BabelRSError, match="not signed with the key"):
        open_bundle(path, key=read_public_key(other_key(signed)))
    assert not list((signed.folder.parent / "cache").glob("*"))


def test_of_an_archive_only_two_headers_and_what_they_hold_is_read_for_the_signature(signed: Signed) -> None:
    manifest, signature = ((signed.folder / name).read_bytes() for name in ("manifest.json", "manifest.sig"))
    end = 512 + -(-len(manifest) // 512) * 512 + 1024
    cut = signed.archive.with_name("cut")
    cut.write_bytes(signed.archive.read_bytes()[:end])
    with cut.open("rb") as stream:
        assert read_head(stream, cut) == (manifest, signature)


def test_what_is_parsed_is_what_was_verified_though_the_file_changes_meanwhile(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, whole = read_public_key(signed.public), open_bundle(signed.folder)
    genuine = type(key).check

    def swap_after(*given: object) -> None:
        genuine(*given)  # type: ignore[arg-type]
        (signed.folder / "manifest.json").write_text("{}")

    monkeypatch.setattr(type(key), "check", swap_after)
    opened = open_bundle(signed.folder, key=key)
    assert (opened.manifest, opened.digest) == (whole.manifest, whole.digest)


def test_an_unsigned_bundle_whose_graphs_were_swapped_with_their_hashes_misses_its_self_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(cli.DEMO_BUNDLE, tmp_path / "demo"))  # its infrared and SAR graphs are of one shape
    shutil.copyfile(folder / "model.sar.onnx", folder / "model.ir.onnx")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, sensors={Sensor.IR: manifest.entry(Sensor.IR)}))
    assert verify.main([str(folder), "--threads", "1"]) == 1
    assert "selftest FAILED: ir" in capsys.readouterr().out


def test_an_unsigned_bundle_with_a_graph_of_another_shape_is_refused(
    toy_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(toy_bundle.folder, tmp_path / "copy"))
    shutil.copyfile(folder / "model.sar.onnx", folder / "model.ir.onnx")
    write_manifest(folder, toy_bundle.manifest)
    assert verify.main([str(folder)]) == 2
    assert "model.ir.onnx: takes" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["bundle", "archive", "key", "cache"])
def test_what_may_not_be_read_or_written_is_exit_2(
    signed: Signed, which: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    denied = {"bundle": signed.folder, "archive": signed.archive, "key": signed.public, "cache": tmp_path}[which]
    source = signed.folder if which == "bundle" else signed.archive
    denied.chmod(0o555 if which == "cache" else 0)
    capsys.readouterr()
    try:
        with permissions_count():
            code = verify.main([str(source), "--require-signature", str(signed.public)])
    finally:
        denied.chmod(0o755)
    error = capsys.readouterr().err
    assert code == 2 and f"{denied}" in error and "Permission denied" in error and "Traceback" not in error


def test_pipes_in_the_place_of_files_do_not_hang(signed: Signed, repository: Path) -> None:
    for name in ("manifest.json", "manifest.sig", "weights.bin"):
        copy = signed.folder.with_name(f"pipe-{name}")
        shutil.copytree(signed.folder, copy)
        (copy / name).unlink()
        os.mkfifo(copy / name)
        command = [sys.executable, "-m", "runtime.verify", str(copy), "--require-signature", str(signed.public)]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2 and f"{name}: not a regular file" in done.stderr
