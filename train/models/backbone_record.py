"""The record beside a backbone that pretraining hands over: what a detector must be given to read its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError

RECORD_FILE, WEIGHTS_FILE = "backbone.json", "model.safetensors"
SCHEMA = "babelrs.backbone/1"


def read_backbone_record(folder: Path) -> dict[str, Any]:
    """The record: ``backbone``, fields of ``model.backbone``, and ``merge``, where pretraining ended.

    Raises:
        BabelRSError: It is missing, of another schema, or says nothing of the backbone.
    """
    file = folder / RECORD_FILE
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BabelRSError(f"Cannot read {file}: {error}.", "Restore the file.") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BabelRSError(f"{file} has schema {found!r}, not {SCHEMA!r}.", "Give a backbone of this version.")
    if not isinstance(record.get("backbone"), dict):
        raise BabelRSError(f"{file} does not say what sizes the backbone has.", "Restore the file.")
    return record
