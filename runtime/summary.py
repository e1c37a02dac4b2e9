"""Counts of a run and the line that states them at its end."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from dataclasses import dataclass, field

from runtime.pipeline import FrameResult
from runtime.stopwatch import STAGES

TOTAL = "total"
REMEMBERED = 10_000
"""Images whose latencies are kept: a live source has no last one."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        num_images: Images processed.
        detections: Number of detections by class.
        skipped: Number of skipped images by cause.
        latencies_ms: Milliseconds of the last images by stage, and in all from when the source gave it to its result.
        num_dropped: Frames of a live source that newer ones replaced.
        elapsed_s: Wall-clock seconds of the run.
        num_before: Images that an earlier run processed, which this one goes on with.
        num_skipped_before: Images that it skipped.
    """

    num_images: int = 0
    detections: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    latencies_ms: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=REMEMBERED) for stage in (*STAGES, TOTAL)}
    )
    num_dropped: int = 0
    elapsed_s: float = 0.0
    num_before: int = 0
    num_skipped_before: int = 0

    def add(self, result: FrameResult, total_ms: float) -> None:
        """Count one processed image that took so long in all."""
        self.num_images += 1
        found = result.detections
        self.detections.update(found.classes[label] for label in found.labels)
        for stage, values in self.latencies_ms.items():
            values.append(total_ms if stage == TOTAL else result.latency_ms[stage])

    def skip(self, cause: str) -> int:
        """Count one image that could not be used; returns how many it were of this cause."""
        self.skipped[cause] += 1
        return self.skipped[cause]

    def line(self) -> str:
        """One line: images, detections per class, images a second, median milliseconds per stage, skipped by cause."""
        total = sum(self.detections.values())
        parts = [f"{self.num_images} images", f"{total} detections{_listed(self.detections)}"]
        if self.num_images:
            parts.append(f"{self.num_images / max(self.elapsed_s, 1e-9):.2f} images/s")
            medians = (f"{stage} {statistics.median(values):.1f}" for stage, values in self.latencies_ms.items())
            parts.append(f"median ms: {', '.join(medians)}")
        if self.skipped:
            parts.append(f"{sum(self.skipped.values())} skipped{_listed(self.skipped)}")
        if self.num_dropped:
            parts.append(f"{self.num_dropped} dropped")
        if self.num_before or self.num_skipped_before:
            parts.append(f"{self.num_before} images, {self.num_skipped_before} skipped by the run before")
        return " | ".join(parts)


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in sorted(counts.items()))})" if counts else ""
