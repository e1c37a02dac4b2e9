from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from benchmarks.mosquitto import Mosquitto, mosquitto_program


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker that takes anybody."""
    require_mosquitto()
    (tmp_path / "broker").mkdir()
    running = Mosquitto(tmp_path / "broker")
    running.start()
    yield running
    running.stop()


def require_mosquitto() -> None:
    """Skip the test where the broker or its client library is missing."""
    pytest.importorskip("paho.mqtt", reason="the link needs paho-mqtt")
    try:
        mosquitto_program()
    except BabelRSError as error:
        pytest.skip(str(error))
