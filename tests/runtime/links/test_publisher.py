"""What is announced goes before the messages that need it, however the threads meet."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from runtime.links.budget import Budget
from runtime.links.message import Message
from runtime.links.publisher import Publisher
from runtime.links.spool import Spool


class ListedSession:
    """Keeps the topics that are published."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    def publish(self, topic: str, payload: bytes, retain: bool) -> int:
        self.topics.append(topic)
        return len(self.topics)


def test_a_dictionary_goes_before_a_message_that_comes_into_the_spool_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing thread announces, then spools; here both happen while the publisher looks into the spool."""
    spool = Spool(tmp_path / "spool", 1 << 20)
    publisher = Publisher("broker", "top", spool, Budget(0, lambda: 0.0), lambda: None, 0)  # type: ignore[arg-type, return-value]
    look = spool.best

    def meanwhile(without: Collection[int] = ()) -> Message | None:
        monkeypatch.setattr(spool, "best", look)
        publisher.announce("classes/1", b"dictionary")
        spool.add([Message(spool.next_sequence(), 0, 0.9, "ir/detections", b"message")])
        return look(without)

    monkeypatch.setattr(spool, "best", meanwhile)
    session = ListedSession()
    while publisher._send_next(session):  # type: ignore[arg-type]
        pass
    assert session.topics == ["top/classes/1", "top/ir/detections"]
    spool.close()
