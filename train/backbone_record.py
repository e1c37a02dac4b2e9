"""What ``backbone.json`` says of a backbone that pretraining hands over: sizes and taps that detection must take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError

RECORD_FILE = "backbone.json"
SCHEMA = "babelrs.backbone/1"
FOLDER = "backbone"
"""Of a pretraining checkpoint, that holds it."""


def backbone_folder(path: Path) -> Path:
    """The folder itself, or the one in a pretraining checkpoint, or in a run's final or last checkpoint."""
    places = [path, path / FOLDER, path / "final" / FOLDER, path / "last" / FOLDER]
    return next((place for place in places if (place / RECORD_FILE).is_file()), path)


def read_backbone_settings(folder: Path) -> dict[str, Any]:
    """The fields of ``model.backbone`` that make a detector's backbone of it, without ``weights``.

    Args:
        folder: As :func:`backbone_folder` gives it.

    Raises:
        BabelRSError: There is no such record, or it cannot be read.
    """
    file = folder / RECORD_FILE
    try:
        record = json.loads(file.read_text())
        if record["schema"] != SCHEMA:
            raise BabelRSError(f"{file} has schema {record['schema']!r}, not {SCHEMA}.", "Export the backbone again.")
        return dict(record["backbone"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BabelRSError(
            f"{folder} holds no backbone of a pretraining run: {type(error).__name__}: {error}.",
            "Give RUN/final/backbone, or other weights as model.backbone.weights.",
        ) from None
