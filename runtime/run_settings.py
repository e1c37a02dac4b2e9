"""What decides the outputs of a run, so that no other run goes on with them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from babelrs.sensors import Sensor
from runtime.sources.naming import redacted
from runtime.sources.opening import is_path

SPOOL = "spool:"


def settings_of(
    digest: str, named: Sequence[tuple[Sensor, str]], scores: Mapping[Sensor, float], formats: Sequence[str]
) -> dict[str, Any]:
    """Settings that must be the same where a run goes on, as plain JSON values without passwords.

    The engine, its batches and its threads are left out: a run may go on with another engine where one failed.

    Args:
        digest: Of the bundle.
        named: Sensors and addresses of the sources.
        scores: Least score that is reported, by sensor.
        formats: What is written, in order.
    """
    return {
        "bundle": digest,
        "sources": [f"{sensor.value}={_place(address)}" for sensor, address in named],
        "score": {sensor.value: score for sensor, score in sorted(scores.items())},
        "formats": list(formats),
    }


def _place(address: str) -> str:
    """The address wherever the run is started."""
    if address.startswith(SPOOL):
        return SPOOL + os.path.abspath(address.removeprefix(SPOOL))
    return os.path.abspath(address) if is_path(address) else redacted(address)
