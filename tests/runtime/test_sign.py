"""``babelrs-sign`` signs what is whole, in place and at once, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from babelrs.bundle import Bundle, open_bundle, open_trusted, pack_bundle
from babelrs.signing import read_private_key, read_public_key
from runtime import sign
from tests.unprivileged import permissions_count

pytest.importorskip("cryptography", reason="signatures need the extra [sign]")


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    assert sign.main(["--new-key", str(tmp_path / "key")]) == 0
    return tmp_path / "key"


@pytest.fixture
def folder(toy_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_bundle.folder, tmp_path / "bundle"))


def signing(bundle: Path, prefix: Path, *more: object) -> int:
    return sign.main([str(bundle), "--key", f"{prefix}.pem", *map(str, more)])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_new_keys_are_said_with_their_id_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign.main(["--new-key", str(tmp_path / "key")]) == 0
    out, before = capsys.readouterr().out, files(tmp_path)
    assert read_public_key(tmp_path / "key.pub.pem").key_id in out and set(before) == {"key.pem", "key.pub.pem"}
    assert sign.main(["--new-key", str(tmp_path / "key")]) == 2
    assert "there already" in capsys.readouterr().err and files(tmp_path) == before


def test_a_folder_gets_64_bytes_over_its_manifest_and_nothing_else_changes(folder: Path, prefix: Path) -> None:
    before = files(folder)
    assert signing(folder, prefix) == 0
    after = files(folder)
    signature = after.pop("manifest.sig")
    assert after == before and len(signature) == 64
    read_private_key(f"{prefix}.pem").public.check(before["manifest.json"], signature, "test")
    assert signing(folder, prefix) == 0 and files(folder)["manifest.sig"] == signature


def test_an_archive_is_signed_in_place_or_elsewhere(folder: Path, prefix: Path, tmp_path: Path) -> None:
    archive = pack_bundle(open_bundle(folder), tmp_path / "toy.babelrs")
    unsigned = archive.read_bytes()
    assert signing(archive, prefix, "--out", tmp_path / "signed.babelrs") == 0
    assert archive.read_bytes() == unsigned
    assert signing(archive, prefix) == 0
    assert archive.read_bytes() == (tmp_path / "signed.babelrs").read_bytes() != unsigned
    assert open_trusted(archive, f"{prefix}.pub.pem", tmp_path / "cache").key_id
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".") or path.name.endswith(".part")]


def test_another_signature_takes_the_place_of_one_that_was_there(folder: Path, prefix: Path, tmp_path: Path) -> None:
    (folder / "manifest.sig").write_bytes(b"old")
    archive = pack_bundle(open_bundle(folder), tmp_path / "toy.babelrs")
    for path in (folder, archive):
        assert signing(path, prefix) == 0
        assert open_trusted(path, f"{prefix}.pub.pem", tmp_path / "cache").key_id


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"other"), "weights.bin: altered"),
        (lambda folder: (folder / "model.ir.onnx").unlink(), "missing"),
        (lambda folder: (folder / "notes.txt").touch(), "notes.txt: not listed"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "schema"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
    ],
)
def test_a_bundle_that_is_not_as_its_manifest_says_is_not_signed(
    folder: Path, prefix: Path, damage: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    assert signing(folder, prefix) == 2
    assert said in capsys.readouterr().err and not (folder / "manifest.sig").exists()


def test_a_damaged_archive_is_not_signed_and_left_as_it_is(folder: Path, prefix: Path, tmp_path: Path) -> None:
    archive = pack_bundle(open_bundle(folder), tmp_path / "toy.babelrs")
    os.truncate(archive, 9000)
    before = archive.read_bytes()
    assert signing(archive, prefix) == 2 and archive.read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_run_left_is_cleared_up(folder: Path, prefix: Path) -> None:
    (folder / ".manifest.sig.part").write_bytes(b"half")
    assert signing(folder, prefix) == 0 and not (folder / ".manifest.sig.part").exists()


def test_a_manifest_that_changes_while_it_is_checked_is_not_signed(
    folder: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swap(bundle: Bundle) -> None:
        (bundle.folder / "manifest.json").write_text("another")

    monkeypatch.setattr("runtime.signed_bundles.verify_files", swap)
    assert signing(folder, prefix) == 2 and "changed while it was checked" in capsys.readouterr().err
    assert not (folder / "manifest.sig").exists()


def test_a_folder_that_cannot_be_written_to_is_exit_2(
    folder: Path, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack_bundle(open_bundle(folder), tmp_path / "toy.babelrs")
    for path in (tmp_path, folder):
        path.chmod(0o555)
    try:
        with permissions_count():
            assert [signing(path, prefix) for path in (folder, archive)] == [2, 2]
    finally:
        folder.chmod(0o755)
        tmp_path.chmod(0o755)
    assert capsys.readouterr().err.count("Permission denied") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a bundle or --new-key"),
        (["bundle", "--new-key", "k"], "either a bundle or --new-key"),
        (["bundle"], "No --key"),
        (["bundle", "--key", "none.pem"], "none.pem: missing"),
    ],
)
def test_wrong_arguments_are_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sign.main(arguments) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())
