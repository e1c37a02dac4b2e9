from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babelrs.errors import run_command
from benchmarks.pretraining import ARMS, main
from benchmarks.pretraining_report import MEASURES, measures, record_of
from benchmarks.seeds import format_table, summary
from tests.train.builders import write_all_sensors


def line(step: int, h_map: float) -> dict[str, Any]:
    sensors = {name: {"ap50": h_map + 0.1, "ap75": 0.0, "ap": h_map} for name in ("rgb", "sar", "ir")}
    return {"step": step, "h_map": h_map, "evaluation": {"sensors": sensors}}


def steps(cosine: float, norm: float = 2.0) -> list[dict[str, Any]]:
    agreement = {"norm.rgb": 1.0, "cosine.ir.rgb": cosine, "cosine.ir.sar": None, "cosine.rgb.sar": 0.5}
    return [
        {"step": 1, "gradient_norm": norm, "skipped": True, "agreement": agreement},
        {"step": 2, "gradient_norm": 3 * norm, "skipped": False},
        {"step": 3, "gradient_norm": norm, "skipped": False, "agreement": {**agreement, "cosine.ir.rgb": cosine + 0.2}},
    ]


def test_a_record_holds_the_end_of_the_curve_and_the_mean_of_the_cosines() -> None:
    record = record_of("lvsa", 4, [{"step": 5, "held_out": {"loss": 1.5}}], [*steps(-0.1), line(2, 0.1), line(3, 0.3)])
    assert record["skipped_steps"] == 1 and record["gradient_norm"] == {"median": 2.0, "largest": 6.0}
    assert record["held_out"] == [{"step": 5, "loss": 1.5}] and [e["step"] for e in record["curve"]] == [2, 3]
    found = measures(record)
    assert found["h_map"] == 0.3 and found["ir ap50"] == pytest.approx(0.4)
    assert found["cosine ir.rgb"] == pytest.approx(0.0) and found["cosine rgb.sar"] == 0.5
    assert "cosine ir.sar" not in found


def records(**ends: list[float]) -> list[dict[str, Any]]:
    return [
        record_of(arm.replace("_", " "), seed, [], [*steps(0.0), line(1, end)])
        for arm, values in ends.items()
        for seed, end in enumerate(values)
    ]


def test_only_arms_whose_every_seed_is_above_are_separated() -> None:
    found = summary(records(none=[0.1, 0.2, 0.12], last=[0.19, 0.3, 0.4], lvsa=[0.21, 0.5, 0.3]), measures)
    apart = [(each["higher"], each["lower"]) for each in found["separated"] if each["measure"] == "h_map"]
    assert apart == [("lvsa", "none")]
    assert found["arms"]["none"]["h_map"]["mean"] == pytest.approx(0.14)
    assert found["arms"]["none"]["h_map"]["spread"] == pytest.approx(0.0529150262)
    assert "h_map: lvsa above none" in format_table(found, MEASURES)


def test_two_seeds_separate_nothing() -> None:
    found = summary(records(none=[0.1, 0.2], lvsa=[0.8, 0.9]), measures)
    assert found["separated"] == [] and "No two arms are separated" in format_table(found, MEASURES)
    assert found["compared"] == {"pairs": 0, "by_chance": 0}


def test_as_many_pairs_are_separated_among_equal_arms_as_is_said() -> None:
    """Counted over draws of seeds of four arms that are alike."""
    rng = np.random.default_rng(0)
    counts, said = [], 0.0
    for _ in range(600):
        draws = rng.random((4, 3))
        made = [{"arm": str(arm), "value": value} for arm, values in enumerate(draws) for value in values]
        found = summary(made, lambda record: {"a measure": record["value"]})
        counts.append(len(found["separated"]))
        said = found["compared"]["by_chance"]
        assert found["compared"]["pairs"] == 6
    assert said == pytest.approx(0.6)
    assert np.mean(counts) == pytest.approx(said, abs=0.08)


def small_settings(folder: Path) -> list[str]:
    """The smallest experiment that has all parts."""
    vision = {"image_px": 32, "patch_px": 8, "width": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}
    text = {"width": 24, "depth": 2, "num_heads": 2, "num_kv_heads": 1, "hidden": 32, "max_tokens": 256}
    pretraining = {
        "steps": 3, "sequences": 2, "save_every": 3,
        "model": {"taps": [1, 2, 3], "tau": 2, "vision": vision, "text": text},
        "tokenizer": {"vocabulary": 320}, "heldout": {"rows": 3, "max_tokens": 2}, "watch": {"trackers": []},
        "data": {"max_length": 256, "tile_px": 32, "patch_px": 8, "max_tiles": 1, "max_broken_share": 1},
    }  # fmt: skip
    detection = {
        "steps": 3, "save_every": 2, "log_every": 1, "data": {"workers": 0}, "augment": {"crop_px": 128},
        "model": {"backbone": {"stem_widths": [8, 8, 12], "stem_blocks": [0, 0, 0]}, "pyramid_channels": 16,
                  "head_channels": 16, "input_px": {"rgb": [64, 64], "sar": [64, 64], "ir": [64, 64]}},
        "batch": {"rgb": 1, "sar": 1, "ir": 1}, "optimizer": {"warmup_steps": 0},
        "watch": {"evaluate_every": 2, "cosine_every": 1, "trackers": []},
    }  # fmt: skip
    for name, content in (("pretraining", pretraining), ("detection", detection)):
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    for split in ("train", "eval"):
        write_all_sensors(folder / "data", split, count=2)
    return [
        "--data", str(folder / "data"), "--work", str(folder / "work"), "--scenes", "2", "--scene_px", "64",
        "--pretraining", str(folder / "pretraining.yaml"), "--detection", str(folder / "detection.yaml"),
        "--arms", "none", "lvsa", "--seeds", "0", "--jobs", "1", "--out", str(folder / "result"),
    ]  # fmt: skip


def test_the_arms_run_to_the_end_and_finished_ones_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = small_settings(tmp_path)
    assert run_command(main, given) == 0
    content = json.loads((tmp_path / "result.json").read_text())
    assert [(record["arm"], record["seed"]) for record in content["records"]] == [("none", 0), ("lvsa", 0)]
    none, lvsa = content["records"]
    assert none["held_out"] == [] and len(lvsa["held_out"]) == 2 and len(lvsa["cosines"]) == 3
    assert [point["step"] for point in none["curve"]] == [2, 3]  # the run measured step 2; the end is measured too
    assert (tmp_path / "result.png").exists() and str(tmp_path) not in json.dumps(content)
    assert "h_map" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    assert run_command(main, given) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run_command(main, [*given, "--scenes", "3"]) == 2
    assert "results of other settings" in capsys.readouterr().err


def test_an_unknown_arm_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--data", str(tmp_path), "--arms", "clip", "--work", str(tmp_path / "work")]) == 2
    assert f"clip is none of {', '.join(ARMS)}" in capsys.readouterr().err and not (tmp_path / "work").exists()
