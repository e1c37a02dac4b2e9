"""What ``backbone.json`` says of a backbone that pretraining hands over: sizes and taps that detection must take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError

RECORD_FILE, WEIGHTS_FILE = "backbone.json", "model.safetensors"
SCHEMA = "babelrs.backbone/1"
FOLDER = "backbone"
"""Of a pretraining checkpoint, that holds it."""


def backbone_folder(path: Path) -> Path:
    """The folder itself, or the one in a pretraining checkpoint, or in a run's final or last checkpoint."""
    places = [path, path / FOLDER, path / "final" / FOLDER, path / "last" / FOLDER]
    return next((place for place in places if (place / RECORD_FILE).is_file()), path)


def read_backbone_record(folder: Path) -> dict[str, Any]:
    """The record: ``backbone``, fields of ``model.backbone`` without ``weights``, and ``merge``, where it ended.

    Args:
        folder: As :func:`backbone_folder` gives it.

    Raises:
        BabelRSError: It is missing, of another schema, or says nothing of the backbone.
    """
    file = folder / RECORD_FILE
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(
            f"{folder} holds no backbone of a pretraining run: {error}.",
            "Give RUN/final/backbone, or other weights as model.backbone.weights.",
        ) from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BabelRSError(f"{file} has schema {found!r}, not {SCHEMA!r}.", "Give a backbone of this version.")
    if not isinstance(record.get("backbone"), dict):
        raise BabelRSError(f"{file} does not say what sizes the backbone has.", "Restore the file.")
    return record
