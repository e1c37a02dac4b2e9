"""Small instruction sets and a tokenizer for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from transformers import PreTrainedTokenizerFast

from train.instruct.config import InstructConfig
from train.instruct.tokenizer import train_tokenizer

WORDS = [
    "how", "many", "ships", "cars", "are", "in", "this", "image", "where", "is", "the", "harbor", "count", "number",
]  # fmt: skip


def small_config(**changes: Any) -> InstructConfig:
    """28 px tiles of 4 tokens, short sequences."""
    fields: dict[str, Any] = {
        "tile_px": 28, "patch_px": 7, "shuffle": 0.5, "max_tiles": 2, "max_length": 160, "pack_buffer": 3,
        "system": "Look.",
    }  # fmt: skip
    return InstructConfig.model_validate({**fields, **changes})


def small_tokenizer(folder: Path, vocabulary: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few words."""
    return train_tokenizer([" ".join(WORDS)] * 5, vocabulary, folder)


def row(number: int, question: str, answer: str, image: str | list[str] | None = None) -> dict[str, Any]:
    """A row of one question."""
    talk = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": number, **({} if image is None else {"image": image}), "conversations": talk}


def random_rows(count: int, seed: int, images: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of random words; about half of them have an image, if there are any."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        question = " ".join(rng.choice(WORDS, int(rng.integers(1, 9))))
        answer = f"{number} " + " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
        image = str(rng.choice(list(images))) if images and rng.random() < 0.5 else None
        rows.append(row(number, f"<image>\n{question}" if image else question, answer, image))
    return rows


def write_set(folder: Path, name: str, rows: Sequence[Mapping[str, Any] | str], **values: Any) -> dict[str, Any]:
    """Write a JSONL file (a text is a raw line) and return its entry in a meta file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return {"root": "images", "annotation": f"{name}.jsonl", "length": len(rows), "repeat_time": 1, **values}


def write_meta(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a meta file beside its sets."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "meta.json"
    path.write_text(json.dumps(entries))
    return path


def write_images(folder: Path, count: int = 3) -> list[str]:
    """Noise images of several shapes under ``images``; returns their names."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    names = [f"{index}.png" for index in range(count)]
    for index, name in enumerate(names):
        shape = (30 + 10 * index, 60 - 10 * index, 3)
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, shape, dtype=np.uint8))
    return names
