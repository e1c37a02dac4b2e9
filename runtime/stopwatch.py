"""Milliseconds by stage of the work on an image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("read", "preprocess", "infer", "postprocess")


@dataclass
class Stopwatch:
    """Adds up the milliseconds of named stages; for one thread."""

    elapsed_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside as ``name``, also when it ends in an error."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.elapsed_ms[name] += (time.perf_counter() - start) * 1e3
