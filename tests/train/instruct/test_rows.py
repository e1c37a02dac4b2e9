from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from tests.train.instruct.builders import row
from train.instruct.faults import RowFault
from train.instruct.rows import JsonLines, parse_row, row_json

TURN = {"from": "human", "value": "q"}
REPLY = {"from": "gpt", "value": "a"}


def test_turns_images_system_and_sensor_are_read() -> None:
    talk = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "<image> and <image>"},
        {"from": "gpt", "value": "one"},
        {"from": "human", "value": "then <image>"},
        {"from": "gpt", "value": "two"},
    ]
    values = {"id": 7, "image": ["a.png", "b.png", "c.png"], "sensor": "IR", "width": [1, 2], "conversations": talk}
    found = parse_row(json.dumps(values))
    assert found.id == "7" and found.images == ("a.png", "b.png", "c.png")
    assert found.system == "s" and found.sensor is Sensor.IR
    assert found.turns == (("<image> and <image>", "one"), ("then <image>", "two"))
    assert parse_row(json.dumps(row_json(found, extra=1))) == found


@pytest.mark.parametrize("image", [None, []])
def test_a_row_without_images_is_text(image: Any) -> None:
    assert parse_row(json.dumps({"id": "t", "image": image, "conversations": [TURN, REPLY]})).images == ()


def one(question: str = "q", answer: str = "a", **more: Any) -> dict[str, Any]:
    return {**row(5, question, answer), **more}


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ("{", "not JSON"),
        ("[1]", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ({"id": 5}, "no conversation"),
        ({"id": 5, "conversations": []}, "no conversation"),
        ({"id": 5, "conversations": [{"from": "human"}]}, "no conversation"),
        ({"id": 5, "conversations": [TURN, {"from": "bot", "value": "x"}]}, "unknown role"),
        ({"id": 5, "conversations": [TURN, {"from": ["gpt"], "value": "x"}]}, "unknown role"),
        ({"id": 5, "conversations": [TURN, TURN, REPLY]}, "roles do not alternate"),
        ({"id": 5, "conversations": [TURN, REPLY, TURN]}, "roles do not alternate"),
        ({"id": 5, "conversations": [REPLY, TURN]}, "roles do not alternate"),
        ({"id": 5, "conversations": [{"from": "system", "value": "s"}]}, "roles do not alternate"),
        ({"id": 5, "conversations": [TURN, {"from": "system", "value": "s"}]}, "roles do not alternate"),
        (one(answer=" \n"), "empty answer"),
        (one(image="a.png"), "no image marker"),
        (one("<image><image>", image="a.png"), "too many image markers"),
        (one("<image>"), "too many image markers"),
        (one("<image>", image=["a.png", "b.png"]), "too few image markers"),
        (one(answer="<image>", image="a.png"), "image marker in an answer"),
        (one("<image>", image=3), "image path"),
        (one("<image>", image=[""]), "image path"),
        (one(sensor="sonar"), "unknown sensor"),
        (one("<IMG_CONTEXT>"), "reserved token"),
        (one(answer="yes<|im_end|>"), "reserved token"),
        (one(answer="\ud800"), "not Unicode"),
    ],
)
def test_a_broken_row_is_named_by_its_cause(values: Any, cause: str) -> None:
    line = values if isinstance(values, str) else json.dumps(values)
    with pytest.raises(RowFault) as caught:
        parse_row(line.encode())
    assert caught.value.cause == cause and caught.value.detail
    assert caught.value.identity == ("5" if isinstance(values, dict) else "")


def test_bytes_that_are_no_text_are_a_fault() -> None:
    with pytest.raises(RowFault, match="not JSON"):
        parse_row(b'{"id": "\xff"}')


@pytest.mark.parametrize(
    "text", ["a1\nb22\nc333\n", "a1\nb22\nc333", "a1\n\nb22\n\n\nc333\n\n", "a1\r\nb22\r\n\r\nc333"]
)
def test_lines_are_found_by_offset_whatever_ends_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode())
    lines = JsonLines(path)
    assert [lines[index].strip() for index in (2, 0, 1)] == [b"c333", b"a1", b"b22"] and len(lines) == 3


def test_offsets_are_right_across_blocks_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    expected = [f"{index}".encode() * (1 + index % 700) for index in range(20_000)]
    path.write_bytes(b"\n".join(expected))
    lines = JsonLines(path)
    assert path.stat().st_size > 1 << 24 and len(lines) == 20_000
    assert [lines[index] for index in (0, 12_345, 19_999)] == [expected[index] for index in (0, 12_345, 19_999)]


def test_an_empty_file_has_no_rows_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    assert len(JsonLines(tmp_path / "x")) == 0
    with pytest.raises(BabelRSError, match=r"gone\.jsonl"):
        JsonLines(tmp_path / "gone.jsonl")
