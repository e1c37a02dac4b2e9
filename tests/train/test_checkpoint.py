from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from babelrs.errors import BabelRSError
from babelrs.radiometry import RadiometryProfile, Stretch
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, random_detector, save_tiny, tiny_model
from train.checkpoint import RECORD_FILE, WEIGHTS_FILE, load_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "c", random_detector(tiny_model(), 0))
    return tmp_path / "c"


def test_weights_classes_and_profiles_come_back_as_they_were(tmp_path: Path) -> None:
    classes = {Sensor.IR: ("freight car", "Car"), Sensor.SAR: ("ship",)}  # the order of names and sensors counts
    detector = random_detector(tiny_model(), 1, classes)
    profiles = {
        Sensor.IR: RadiometryProfile(Sensor.IR, {"uint16": Stretch("none", "percentile", 1.0, 99.5, 32.0)}, nodata=7),
        Sensor.SAR: RadiometryProfile(Sensor.SAR, {"uint8": Stretch()}),
    }
    saved = save_tiny(tmp_path, detector, profiles=profiles, training={"seed": 11}, metrics={"h_map": 0.25})
    loaded, record = load_checkpoint(tmp_path)
    assert record == saved and list(record.classes) == [Sensor.IR, Sensor.SAR] == list(loaded.classes)
    assert loaded.classes == classes and loaded.config == detector.config and not loaded.training
    original = detector.state_dict()
    assert loaded.state_dict().keys() == original.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, original[name]) and tensor.dtype == original[name].dtype, name


def test_a_loaded_detector_computes_what_the_saved_one_did(folder: Path) -> None:
    from tests.train.builders import random_pixels

    pixels = {Sensor.IR: random_pixels((1, 64, 64, 1), 0)}
    with torch.no_grad():
        first = random_detector(tiny_model(), 0)(pixels)[Sensor.IR]
        second = load_checkpoint(folder)[0](pixels)[Sensor.IR]
    assert torch.equal(first.logits, second.logits) and torch.equal(first.distributions, second.distributions)


def test_saving_again_replaces_and_leaves_no_part_behind(folder: Path) -> None:
    save_tiny(folder, random_detector(tiny_model(), 5), training={"seed": 5})
    assert sorted(path.name for path in folder.iterdir()) == sorted([RECORD_FILE, WEIGHTS_FILE])
    assert load_checkpoint(folder)[1].training == {"seed": 5}


def edit_record(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((folder / RECORD_FILE).read_text())
    change(record)
    (folder / RECORD_FILE).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / RECORD_FILE).unlink(),
        lambda folder: (folder / RECORD_FILE).write_text("{"),
        lambda folder: (folder / RECORD_FILE).write_text("[]"),
        lambda folder: (folder / RECORD_FILE).write_bytes(b"\xff\xfe\x81"),
        lambda folder: edit_record(folder, lambda r: r.update(schema="babelrs.checkpoint/99")),
        lambda folder: edit_record(folder, lambda r: r.pop("schema")),
        lambda folder: edit_record(folder, lambda r: r.pop("model")),
        lambda folder: edit_record(folder, lambda r: r.pop("profiles")),
        lambda folder: edit_record(folder, lambda r: r.update(classes=[])),
        lambda folder: edit_record(folder, lambda r: r["model"].update(pyramid_channels="many")),
        lambda folder: edit_record(folder, lambda r: r["model"]["backbone"].update(taps=[1, 9])),
        lambda folder: edit_record(folder, lambda r: r["classes"].update(lidar=["ship"])),
        lambda folder: edit_record(folder, lambda r: r["profiles"]["ir"].pop("stretches")),
        lambda folder: edit_record(folder, lambda r: r["profiles"].pop("ir")),
    ],
)
def test_a_missing_or_spoilt_record_is_named(folder: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(folder)
    with pytest.raises(BabelRSError) as caught:
        load_checkpoint(folder)
    assert RECORD_FILE in str(caught.value) and str(folder) in str(caught.value) and caught.value.remedy


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), ""),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-100]), ""),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b""), ""),
        (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"weights" * 50), ""),
        (lambda folder: rewrite(folder, lambda w: w.pop("aggregate.gamma")), "aggregate.gamma"),
        (lambda folder: rewrite(folder, lambda w: w.update(extra=torch.zeros(3))), "extra"),
        (lambda folder: rewrite(folder, lambda w: w.update({"aggregate.beta": torch.zeros(1)})), "aggregate.beta"),
        (lambda folder: edit_record(folder, lambda r: r["classes"]["ir"].append("bus")), "heads.ir"),
    ],
)
def test_missing_spoilt_or_unfitting_weights_are_named(folder: Path, spoil: Callable[[Path], Any], word: str) -> None:
    spoil(folder)
    with pytest.raises(BabelRSError) as caught:
        load_checkpoint(folder)
    assert WEIGHTS_FILE in str(caught.value) and str(folder) in str(caught.value) and word in str(caught.value)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BabelRSError, match="not a checkpoint"):
            load_checkpoint(path)


def test_checkpoints_are_not_pickles(folder: Path) -> None:
    assert len(CLASSES) == 3
    header = (folder / WEIGHTS_FILE).read_bytes()[:9]
    assert int.from_bytes(header[:8], "little") < 1 << 20 and header[8:9] == b"{"
