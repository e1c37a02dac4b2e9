"""A bundle is exactly what was made, or it is refused with every fault named."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.bundle import (
    Bundle,
    Manifest,
    SelfTest,
    SensorEntry,
    open_bundle,
    pack_bundle,
    read_selftest,
    sha256_of,
    verify_files,
    write_manifest,
    write_selftest,
)
from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor


def entry(sensor: Sensor) -> SensorEntry:
    return SensorEntry(
        classes=("ship", "large-vehicle"),
        profile=DEFAULT_PROFILES[sensor],
        graph=f"model.{sensor}.onnx",
        selftest=f"selftest.{sensor}.npz",
        input_height=8,
        input_width=16,
        channels=sensor.num_channels,
        max_detections=3,
        score_threshold=0.3,
        nms_iou=0.1,
        tile_overlap=0.2,
        precision="fp32",
    )


def make_bundle(folder: Path) -> Bundle:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"weights" * 1000)
    for sensor in (Sensor.SAR, Sensor.IR):
        (folder / f"model.{sensor}.onnx").write_bytes(sensor.value.encode())
        pixels = np.arange(128, dtype=np.uint8).reshape(1, 8, 16, 1)
        boxes, scores = np.ones((1, 3, 5), np.float32), np.array([[0.9, 0.5, 0.1]], np.float32)
        selftest = SelfTest(pixels, boxes, scores, np.zeros((1, 3), np.int32), 1e-3, 0.05)
        write_selftest(folder / f"selftest.{sensor}.npz", selftest)
    sensors = {sensor: entry(sensor) for sensor in (Sensor.SAR, Sensor.IR)}
    metrics = {"sar": {"AP50": 0.5}, "H-mAP": 0.25}
    return write_manifest(folder, Manifest("toy", "cpu", (3, 7, 11), (8, 16, 32, 64), sensors, metrics=metrics))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def test_a_written_bundle_opens_and_verifies(bundle: Bundle) -> None:
    opened = open_bundle(bundle.folder)
    verify_files(opened)
    assert opened == bundle and opened.digest == sha256_of(bundle.folder / "manifest.json")
    assert opened.manifest.entry(Sensor.IR) == entry(Sensor.IR)
    assert set(opened.manifest.files) == {path.name for path in bundle.folder.iterdir()} - {"manifest.json"}
    assert opened.manifest.metrics == {"sar": {"AP50": 0.5}, "H-mAP": 0.25}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, bundle: Bundle) -> None:
    again = make_bundle(tmp_path / "again")
    assert again.digest == bundle.digest
    archives = [pack_bundle(item, tmp_path / f"{n}.babelrs").read_bytes() for n, item in enumerate([bundle, again])]
    assert archives[0] == archives[1]


def test_the_manifest_is_canonical_json_without_time(bundle: Bundle) -> None:
    values = json.loads((bundle.folder / "manifest.json").read_text())
    assert values["schema"] == "babelrs.bundle/1"
    assert list(values) == sorted(values) and Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_a_sensor_that_is_not_in_the_bundle_is_named_with_those_that_are(bundle: Bundle) -> None:
    with pytest.raises(BabelRSError, match=r"sensor rgb.*It has: ir, sar"):
        bundle.manifest.entry(Sensor.RGB)


def test_every_missing_altered_and_extra_file_is_named(bundle: Bundle) -> None:
    (bundle.folder / "weights.bin").write_bytes(b"weights" * 999 + b"weighty")
    (bundle.folder / "model.ir.onnx").unlink()
    (bundle.folder / "notes.txt").write_text("hello")
    with pytest.raises(BabelRSError) as caught:
        verify_files(bundle)
    text = str(caught.value)
    assert "weights.bin: altered" in text and "model.ir.onnx: missing" in text and "notes.txt: not listed" in text
    assert "model.sar.onnx" not in text


def test_a_signature_beside_the_manifest_is_no_extra_file(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "manifest.sig").write_bytes(b"signature")
    verify_files(bundle)
    opened = open_bundle(pack_bundle(bundle, tmp_path / "b.babelrs"), tmp_path / "cache")
    assert (opened.folder / "manifest.sig").read_bytes() == b"signature"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("taps"), "taps: missing"),
        (lambda v: v.update(colour="red"), "colour: unknown"),
        (lambda v: v.update(strides=[]), "strides"),
        (lambda v: v.update(sensors={}), "sensors"),
        (lambda v: v.update(name=""), "name"),
        (lambda v: v["sensors"].update(lidar={}), "sensors.lidar"),
        (lambda v: v["sensors"]["ir"].update(classes=["ship", "ship"]), "sensors.ir.classes"),
        (lambda v: v["sensors"]["ir"].update(classes=[]), "sensors.ir.classes"),
        (lambda v: v["sensors"]["ir"].update(graph="../model.onnx"), "sensors.ir.graph"),
        (lambda v: v["sensors"]["ir"].update(graph="/etc/passwd"), "sensors.ir.graph"),
        (lambda v: v["sensors"]["ir"].update(graph="other.onnx"), "not in files"),
        (lambda v: v["sensors"]["ir"].update(input_height=0), "sensors.ir.input_height"),
        (lambda v: v["sensors"]["ir"].update(input_width=True), "sensors.ir.input_width"),
        (lambda v: v["sensors"]["ir"].update(channels=3), "sensors.ir.channels"),
        (lambda v: v["sensors"]["ir"].update(score_threshold=1.5), "sensors.ir.score_threshold"),
        (lambda v: v["sensors"]["ir"].update(nms_iou="0.1"), "sensors.ir.nms_iou"),
        (lambda v: v["sensors"]["ir"].update(tile_overlap=1.0), "sensors.ir.tile_overlap"),
        (lambda v: v["sensors"]["ir"]["profile"].update(sensor="sar"), "for sensor sar"),
        (lambda v: v["sensors"]["ir"]["profile"]["stretches"].update(int8={}), "sensors.ir.profile"),
        (lambda v: v["files"].update({"a/b": "0" * 64}), "files"),
        (lambda v: v["files"].update({"weights.bin": "xyz"}), "files"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_field(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = bundle.folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(BabelRSError, match=message) as caught:
        open_bundle(bundle.folder)
    assert str(path) in str(caught.value)


def test_all_faults_of_a_manifest_are_listed_at_once(bundle: Bundle) -> None:
    values = json.loads(bundle.manifest.to_json())
    values.pop("taps")
    values["sensors"]["ir"]["nms_iou"] = 7
    values["sensors"]["sar"]["classes"] = "ship"
    with pytest.raises(BabelRSError) as caught:
        Manifest.from_json(json.dumps(values))
    assert all(name in str(caught.value) for name in ("taps", "sensors.ir.nms_iou", "sensors.sar.classes", "(3)"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "babelrs.bundle/2"}', '"x"', "null"])
def test_what_is_no_manifest_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.folder / "manifest.json").write_text(text)
    with pytest.raises(BabelRSError, match=r"manifest\.json"):
        open_bundle(bundle.folder)


def test_a_manifest_that_is_not_text_is_refused(bundle: Bundle) -> None:
    (bundle.folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BabelRSError, match="UTF-8"):
        open_bundle(bundle.folder)


def test_a_missing_bundle_and_a_folder_without_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match="no such bundle"):
        open_bundle(tmp_path / "none")
    with pytest.raises(BabelRSError, match=r"no manifest\.json"):
        open_bundle(tmp_path)


def test_measurements_that_are_no_numbers_are_not_written(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(bundle.folder, replace(bundle.manifest, metrics={"AP50": float("nan")}))


def test_a_manifest_is_not_written_over_a_folder_of_other_things(bundle: Bundle) -> None:
    (bundle.folder / "subfolder").mkdir()
    with pytest.raises(BabelRSError, match="subfolder"):
        write_manifest(bundle.folder, bundle.manifest)


def test_an_archive_opens_like_its_folder(bundle: Bundle, tmp_path: Path) -> None:
    archive = pack_bundle(bundle, tmp_path / "toy.babelrs")
    opened = open_bundle(archive, tmp_path / "cache")
    verify_files(opened)
    assert (opened.digest, opened.manifest) == (bundle.digest, bundle.manifest)
    assert opened.folder == tmp_path / "cache" / sha256_of(archive)
    stamp = (opened.folder / "weights.bin").stat().st_mtime_ns
    assert open_bundle(archive, tmp_path / "cache") == opened
    assert (opened.folder / "weights.bin").stat().st_mtime_ns == stamp, "unpacked twice"


def test_a_damaged_unpacked_copy_is_made_again(bundle: Bundle, tmp_path: Path) -> None:
    archive = pack_bundle(bundle, tmp_path / "toy.babelrs")
    opened = open_bundle(archive, tmp_path / "cache")
    (opened.folder / "weights.bin").write_bytes(b"")
    again = open_bundle(archive, tmp_path / "cache")
    verify_files(again)
    assert (again.folder / "weights.bin").read_bytes() == (bundle.folder / "weights.bin").read_bytes()


def test_an_altered_bundle_is_not_packed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "weights.bin").write_bytes(b"")
    with pytest.raises(BabelRSError, match="altered"):
        pack_bundle(bundle, tmp_path / "toy.babelrs")
    assert not (tmp_path / "toy.babelrs").exists()


@pytest.mark.parametrize("size", [0, 100, 700, 5000])
def test_a_truncated_archive_is_refused(bundle: Bundle, tmp_path: Path, size: int) -> None:
    archive = pack_bundle(bundle, tmp_path / "toy.babelrs")
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(BabelRSError):
        verify_files(open_bundle(archive, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../evil", tarfile.REGTYPE),
        ("/evil", tarfile.REGTYPE),
        ("sub/evil", tarfile.REGTYPE),
        (".hidden", tarfile.REGTYPE),
        ("evil", tarfile.SYMTYPE),
        ("evil", tarfile.LNKTYPE),
        ("evil", tarfile.DIRTYPE),
        ("evil", tarfile.FIFOTYPE),
        ("manifest.json", tarfile.REGTYPE),
    ],
)
def test_an_archive_holds_plain_files_only(bundle: Bundle, tmp_path: Path, name: str, kind: bytes) -> None:
    archive = pack_bundle(bundle, tmp_path / "toy.babelrs")
    with tarfile.open(archive, "a:") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO())
    with pytest.raises(BabelRSError, match="Do not use this archive"):
        open_bundle(archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "cache").exists()


def test_a_compressed_archive_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "toy.babelrs", "w:gz") as tar:
        tar.add(bundle.folder / "manifest.json", "manifest.json")
    with pytest.raises(BabelRSError, match="damaged"):
        open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache")


def test_the_self_test_survives_the_file(bundle: Bundle) -> None:
    found = read_selftest(bundle, Sensor.SAR)
    assert found.pixels.shape == (1, 8, 16, 1) and found.pixels.dtype == np.uint8
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert (found.score_tolerance, found.box_tolerance_px) == (1e-3, 0.05)


def test_a_self_test_that_is_none_is_refused(bundle: Bundle) -> None:
    path = bundle.folder / "selftest.sar.npz"
    whole = path.read_bytes()
    halve = lambda: path.write_bytes(whole[: len(whole) // 2])  # noqa: E731
    for write in (lambda: path.write_bytes(b"PK"), halve, lambda: np.savez(path, pixels=np.zeros(3)), path.unlink):
        write()
        with pytest.raises(BabelRSError, match=r"selftest\.sar\.npz"):
            read_selftest(bundle, Sensor.SAR)


def test_no_damage_to_a_self_test_raises_anything_else(bundle: Bundle) -> None:
    """Its archive is stored, compressed, and holds a header that NumPy parses as Python: each fails in its own way."""
    path, rng = bundle.folder / "selftest.sar.npz", np.random.default_rng(5)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for number in range(400):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 1 + number % 4)] = rng.integers(0, 256, 1 + number % 4)
        path.write_bytes(damaged.tobytes())
        try:
            read_selftest(bundle, Sensor.SAR)
        except BabelRSError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


def test_a_self_test_that_unpacks_to_gigabytes_is_refused_unread(bundle: Bundle) -> None:
    path = bundle.folder / "selftest.sar.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("pixels.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(BabelRSError, match=r"selftest\.sar\.npz: not a self-test"):
        read_selftest(bundle, Sensor.SAR)
