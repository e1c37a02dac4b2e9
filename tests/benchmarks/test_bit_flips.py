"""The flips fall on every bit alike, each is undone, a killed run goes on, and what they do is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from babelrs.bundle import Bundle
from babelrs.errors import run_command
from babelrs.sensors import Sensor
from benchmarks.bit_flips import main
from benchmarks.flips import Flip, Target, bit_kind, draw_flips, layer_group
from runtime.integrity.weights import Region
from tests.runtime.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    return write_toy_bundle(tmp_path_factory.mktemp("flips") / "bundle", {Sensor.IR: (64, 96)})


@pytest.mark.parametrize(
    ("dtype", "value", "bit", "kind", "flipped"),
    [
        ("float32", 1.0, 31, "sign", -1.0),
        ("float32", 1.0, 23, "exponent", 0.5),
        ("float32", 1.0, 22, "mantissa", 1.5),
        ("float16", 1.0, 10, "exponent", 0.5),
        ("int8", 1, 7, "integer", -127),
    ],
)
def test_bits_are_named_by_what_flipping_them_does(
    dtype: str, value: float, bit: int, kind: str, flipped: float
) -> None:
    number = np.array([9, value], dtype)
    size = number.itemsize
    number.view(np.uint8)[size + bit // 8] ^= 1 << bit % 8
    assert number[1] == flipped and bit_kind(dtype, size + bit // 8, bit % 8) == (kind, bit)


def test_every_bit_of_all_regions_is_as_likely() -> None:
    regions = [Region(f"t{size}", np.zeros(size, np.uint8), "uint8") for size in (1, 3, 2)]
    counts: dict[Flip, int] = {}
    for flip in draw_flips(regions, 48_000, np.random.default_rng(1)):
        counts[flip] = counts.get(flip, 0) + 1
    assert len(counts) == 48 and 850 < min(counts.values()) and max(counts.values()) < 1150


def test_a_flip_is_seen_by_the_crc_changes_detections_and_is_undone(bundle: Bundle) -> None:
    target = Target(bundle, Sensor.IR, None, 1)
    (place,) = [number for number, each in enumerate(target.regions) if each.name == "size"]
    exponent = target.try_flip(Flip(place, 3, 0))  # the width of every box
    assert exponent["crc"] and exponent["changed"] and exponent["selftest"] and exponent["kind"] == "exponent"
    least = target.try_flip(Flip(place, 0, 0))
    assert least["crc"] and not least["changed"] and not least["selftest"] and not least["output"]
    assert exponent["exact"] and least["exact"], "the width of a box has another last bit"


@pytest.mark.parametrize(
    ("name", "reader", "group"),
    [
        ("detector.backbone.blocks.0.norm1.bias", "", "blocks"),
        ("onnx::MatMul_1301", "/backbone/blocks.0/attn/qkv/MatMul", "blocks"),
        ("reorder", "/backbone/stem/stages.2/Conv", "stem"),
        ("reorder", "/pyramid/lateral.3/Conv", "pyramid"),
        ("reorder", "/ir/box_tower/box_tower.0/Conv", "head"),
        ("k", "", "other"),
    ],
)
def test_tensors_belong_to_the_part_that_their_names_say(name: str, reader: str, group: str) -> None:
    assert layer_group(Region(name, np.zeros(1, np.uint8), "uint8", reader)) == group


def test_all_flips_are_found_and_a_run_that_was_cut_off_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "bit-flips"
    options = ["--float32", str(bundle.folder), "--flips", "60", "--inferences", "20", "--out", str(out)]
    assert run_command(main, options) == 0
    lines = tmp_path / "bit-flips.float32.jsonl"
    whole, record = lines.read_text(), json.loads((tmp_path / "bit-flips.json").read_text())
    counts = record["bundles"]["float32"]["all"]
    assert (counts["flips"], counts["crc"]) == (60, 60) and 0 < counts["inferred"] <= 20
    assert (tmp_path / "bit-flips.png").stat().st_size > 1000
    lines.write_text(whole[: len(whole) // 2])
    assert run_command(main, options) == 0
    assert lines.read_text() == whole
    assert run_command(main, [*options, "--seed", "1"]) == 2
