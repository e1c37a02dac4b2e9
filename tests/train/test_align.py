from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from tests.train.alignment.builders import write_concepts
from tests.train.builders import random_detector, save_tiny, tiny_model, write_all_sensors
from tests.train.models.vlms import random_vlm
from train.align import main
from train.models.backbone_export import export_backbone

CLASSES = {Sensor.RGB: ("ship", "small-vehicle"), Sensor.SAR: ("car", "ship"), Sensor.IR: ("Car", "boat")}
PAIRS = ["ir-rgb", "ir-sar", "rgb-sar"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a pretraining checkpoint's backbone, and a detection checkpoint."""
    folder = tmp_path_factory.mktemp("align")
    for split in ("train", "eval"):
        write_concepts(folder / "data", split)
    export_backbone(random_vlm(seed=1), folder / "pretrained/backbone")
    save_tiny(folder / "detector", random_detector(tiny_model(), 2, CLASSES))
    return folder


def arguments(folder: Path, out: str, checkpoint: str = "pretrained", **changes: Any) -> list[str]:
    sizes = {
        "input_px": {"rgb": [64, 96], "sar": [96, 64], "ir": [64, 64]},
        "pyramid_channels": 16,
        "head_channels": 16,
    }
    content = {
        "checkpoint": str(folder / checkpoint), "data": str(folder / "data"), "out": str(folder / out), "seed": 5,
        "min_objects": 2, "batches": 2, "head_steps": 2, "resamples": 0, "batch": {"rgb": 1, "sar": 1, "ir": 1},
        "augment": {"crop_px": 128}, "model": sizes, **changes,
    }  # fmt: skip
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(content))
    return ["--config", str(file)]


def run(folder: Path, out: str, checkpoint: str = "pretrained", **changes: Any) -> dict[str, Any]:
    assert run_command(main, arguments(folder, out, checkpoint, **changes)) == 0
    found: dict[str, Any] = json.loads((folder / out / "alignment.json").read_text())
    return found


def refused(folder: Path, capsys: pytest.CaptureFixture[str], given: list[str]) -> str:
    assert run_command(main, given) == 2
    assert not (folder / "wrong").exists()
    return capsys.readouterr().err


def test_a_pretrained_backbone_is_compared_with_random_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(folder, "bare", resamples=45)
    table = capsys.readouterr().out
    assert found["schema"] == "babelrs.alignment/1"
    for sensor in ("rgb", "sar", "ir"):
        assert found["objects"][sensor]["concepts"] == {"car": 6, "ship": 6} and found["objects"][sensor]["images"] == 3
    weights = (folder / "pretrained/backbone/model.safetensors").read_bytes()
    assert found["after"]["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["after"]["weights"]["merge"]["strategy"] == "lvsa"
    assert found["before"]["weights"]["kind"] == "random weights"
    assert found["before"]["weights"]["model"] == found["after"]["weights"]["model"]
    for side in ("before", "after"):
        assert list(found[side]["features"]) == [*PAIRS, "mean"] and list(found[side]["gradients"]["pairs"]) == PAIRS
        assert found[side]["features"]["ir-rgb"]["shared_concepts"] == ["car", "ship"]
        assert all(-1 <= v <= 1 for p in PAIRS for v in found[side]["gradients"]["pairs"][p]["values"])
        assert found[side]["gradients"]["heads"] == "new, 2 steps on the frozen backbone"
    raw = [found[side]["features"]["mean"]["shared"]["raw"] for side in ("before", "after")]
    assert raw[0] != raw[1]
    change = found["change"]["mean"]["shared"]["raw"]["margin"]
    assert change["value"] == pytest.approx(raw[1]["margin"] - raw[0]["margin"]) and change["draws"] == 45
    assert str(folder) not in json.dumps(found), "results name no path of this machine"
    assert all(word in table for word in (*PAIRS, "before", "after", "note: ir-rgb: two concepts", "0.500"))
    picture = cv2.imread(str(folder / "bare/alignment.png"))
    assert picture is not None and min(picture.shape[:2]) > 500 and picture.std() > 20


def test_the_same_backbone_before_and_after_changes_nothing(folder: Path) -> None:
    found = run(folder, "same", "pretrained/backbone", before=str(folder / "pretrained"), resamples=45)
    assert found["before"] == found["after"] and found["before"]["weights"]["kind"] == "pretrained backbone"
    for pair in found["change"].values():
        for form in ("raw", "centred"):
            assert pair["shared"][form]["margin"] == {"value": 0, "low": 0, "high": 0, "draws": 45}


def test_a_detection_checkpoint_brings_its_heads_unless_new_ones_are_wanted(folder: Path) -> None:
    own = run(folder, "own", "detector")
    assert own["after"]["gradients"]["heads"] == "its own" and "new, 2" in own["before"]["gradients"]["heads"]
    assert any("unlike heads" in note for note in own["notes"])
    assert own["after"]["weights"]["step"] == 7 and own["change"]["mean"]["shared"]["raw"]["margin"]["low"] is None
    new = run(folder, "new", "detector", new_heads=True)
    assert new["after"]["gradients"]["heads"] == new["before"]["gradients"]["heads"] != "its own"
    assert not any("unlike heads" in note for note in new["notes"])
    assert new["after"]["features"] == own["after"]["features"]
    assert new["after"]["gradients"]["pairs"] != own["after"]["gradients"]["pairs"]


def test_without_batches_the_train_split_is_not_needed(folder: Path, tmp_path: Path) -> None:
    write_concepts(tmp_path / "data", "eval")
    for sensor in ("DOTA_800pix/train", "DroneVehicle/dota_train"):
        assert not (tmp_path / "data" / sensor).exists()
    shutil.copytree(folder / "pretrained", tmp_path / "pretrained")
    given = [*arguments(tmp_path, "given"), "--out", "none", "--batches", "0"]
    assert run_command(main, given) == 0
    found = json.loads((tmp_path / "pretrained/alignment.eval/alignment.json").read_text())
    assert found["after"]["gradients"] is None and found["after"]["features"]["mean"]["shared"]["raw"]["same"]


def test_two_sensors_that_share_no_concept_say_so_and_give_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "eval"):
        write_all_sensors(tmp_path / "data", split, count=2)  # RGB ships, SAR vehicles, infrared cars
    found = run(folder, "apart", data=str(tmp_path / "data"))
    assert sum("no concept is shared" in note for note in found["notes"]) == 3
    one = found["after"]["features"]["rgb-sar"]
    assert one["shared"]["raw"]["same"] is None and one["all"]["raw"]["different"] is not None
    assert one["gap"]["shared"] is None and one["gap"]["all"] > 0
    assert found["after"]["gradients"]["pairs"]["rgb-sar"]["mean"] is not None
    assert "no concept is shared (rgb: ship; sar: vehicle)" in capsys.readouterr().out
    table = tmp_path / "concepts.yaml"
    table.write_text("vehicle: car\n")
    named = run(folder, "named", data=str(tmp_path / "data"), concepts=str(table), batches=0)
    assert named["after"]["features"]["ir-sar"]["shared_concepts"] == ["car"]


def test_what_is_no_checkpoint_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(folder, capsys, arguments(folder, "wrong", "data"))
    assert "is no checkpoint that can be measured" in message and "RUN/final" in message
    message = refused(folder, capsys, arguments(folder, "wrong", before=str(folder / "nowhere")))
    assert "nowhere is no checkpoint" in message


def test_a_damaged_or_unfitting_backbone_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder / "pretrained/backbone", broken)
    record = json.loads((broken / "backbone.json").read_text())

    def given(**changes: Any) -> list[str]:
        changed = {**record, "backbone": {**record["backbone"], **changes}}
        (broken / "backbone.json").write_text(json.dumps(changed))
        return arguments(folder, "wrong", str(broken))

    assert "do not fit the backbone" in refused(folder, capsys, given(width=24))
    assert "describes no backbone: depth" in refused(folder, capsys, given(depth=0))
    message = refused(folder, capsys, given(patch_px=14, image_px=56))
    assert "14 px are no power of two" in message and "Set patch_px" in message
    (broken / "backbone.json").write_text(json.dumps({**record, "schema": "babelrs.backbone/9"}))
    message = refused(folder, capsys, arguments(folder, "wrong", str(broken)))
    assert "schema 'babelrs.backbone/9', not 'babelrs.backbone/1'" in message
    (broken / "backbone.json").write_text(json.dumps({"schema": "babelrs.backbone/1"}))
    assert "does not say what sizes" in refused(folder, capsys, arguments(folder, "wrong", str(broken)))


def test_patches_can_be_resized_to_fit(folder: Path) -> None:
    found = run(folder, "resized", patch_px=16, batches=0)
    backbone = found["after"]["weights"]["model"]["backbone"]
    assert backbone["patch_px"] == 16 and backbone["image_px"] == 64, "as many positions as before"


def test_wrong_settings_are_listed_and_nothing_is_started(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(folder, capsys, arguments(folder, "wrong", sensors=["rgb"]))
    assert "sensors: Tuple should have at least 2 items" in message
    message = refused(folder, capsys, arguments(folder, "wrong", sensors=["rgb", "rgb"], batch={"rgb": 0}))
    assert "sensors names one more than once" in message and "no images to rgb" in message
    message = refused(folder, capsys, arguments(folder, "wrong", model={"backbone": {"depth": 2, "taps": [1, 2]}}))
    assert "model.backbone cannot be set" in message
    message = refused(folder, capsys, arguments(folder, "wrong", augment={"crop_px": 96}))
    assert "crop_px 96 is below twice the coarsest stride" in message


def test_a_sensor_that_the_checkpoint_or_the_data_lack_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {sensor: CLASSES[sensor] for sensor in (Sensor.RGB, Sensor.IR)}
    save_tiny(tmp_path / "two", random_detector(tiny_model(), 2, two))
    message = refused(folder, capsys, arguments(folder, "wrong", str(tmp_path / "two")))
    assert "has no head for sar; it serves ir, rgb" in message and "--new_heads" in message
    other = {**CLASSES, Sensor.IR: ("Car",)}
    save_tiny(tmp_path / "other", random_detector(tiny_model(), 2, other))
    message = refused(folder, capsys, arguments(folder, "wrong", before=str(tmp_path / "other")))
    assert "ir annotations have classes that the checkpoint lacks" in message and "boat" in message
    assert "no concept has min_objects 7" in refused(folder, capsys, arguments(folder, "wrong", min_objects=7))
    message = refused(folder, capsys, arguments(folder, "wrong", data=str(tmp_path)))
    assert "no such folder" in message
