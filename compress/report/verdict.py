"""The report in one sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report.cells import REFERENCE, ROW_LABELS, SENSOR_LABELS
from compress.report.record import Report, Row

_WORST_SHOWN = 2.0
"""The bar reaches to this multiple of the limit."""


@dataclass(frozen=True)
class Verdict:
    """What the page says first.

    Attributes:
        met: Whether the limit was kept.
        headline: One sentence.
        detail: What was or was not written, and why.
        used: Where the loss lies on a bar of 0 to 100 percent; ``None``: it was not measured.
        limit_at: Where the limit lies on that bar.
        facts: Label, value and remark of the numbers to know.
    """

    met: bool
    headline: str
    detail: str
    used: float | None
    limit_at: float
    facts: tuple[tuple[str, str, str], ...]


def verdict(report: Report) -> Verdict:
    """Whether the limit was met and by how much, how large the bundle is, and what is INT8 in it."""
    limit = report.limit
    used = None
    if limit.drop is not None:
        used = 100 * min(max(limit.drop, 0.0) / max(_WORST_SHOWN * limit.max_hmap_drop, 1e-9), 1.0)
    facts = [fact(report) for fact in (_accuracy_fact, _size_fact, _weights_fact, _latency_fact, _parity_fact)]
    return Verdict(
        limit.met, _headline(report), _detail(report), used, 100 / _WORST_SHOWN, tuple(fact for fact in facts if fact)
    )


def _headline(report: Report) -> str:
    drop, allowed = report.limit.drop, f"{report.limit.max_hmap_drop:.2f}"
    if drop is None:
        return "Limit met" if report.limit.met else "Limit missed: H-mAP was not measured to the end"
    change = f"H-mAP rises by {-drop:.2f} points" if drop < -0.005 else f"H-mAP falls by {max(drop, 0.0):.2f} points"
    if report.limit.met:
        return f"{change}, within the limit of {allowed}"
    return f"{change}, more than the {allowed} allowed"


def _detail(report: Report) -> str:
    if report.final is None:
        return "No bundle was written; what was measured is below."
    return f"The bundle holds the row “{ROW_LABELS[report.final]}”."


def _accuracy_fact(report: Report) -> tuple[str, str, str] | None:
    row = _shown_row(report)
    if row is None or row.h_map is None:
        return None
    reference = report.row(REFERENCE)
    before = "" if reference is None or reference.h_map is None else f"float32 {100 * reference.h_map:.2f} %"
    return "H-mAP", f"{100 * row.h_map:.2f} %", before


def _size_fact(report: Report) -> tuple[str, str, str] | None:
    row, reference = _shown_row(report), report.row(REFERENCE)
    if row is None or row.size_bytes is None:
        return None
    remark = ""
    if reference is not None and reference.size_bytes:
        remark = f"{row.size_bytes / reference.size_bytes:.2f} of float32's"
    return "size", f"{row.size_bytes / 1e6:.2f} MB", remark


def _weights_fact(report: Report) -> tuple[str, str, str] | None:
    total = sum(part.num_weights for part in report.parts)
    if not total:
        return None
    quantized = sum(part.num_weights for part in report.parts if part.precision == "int8")
    kept = [part.name for part in report.parts if part.precision != "int8"]
    remark = f"in float: {', '.join(kept[:3])}{' ...' if len(kept) > 3 else ''}" if kept else "nothing in float"
    return "weights in INT8", f"{100 * quantized / total:.1f} %", remark


def _latency_fact(report: Report) -> tuple[str, str, str] | None:
    row, reference = _shown_row(report), report.row(REFERENCE)
    if row is None or reference is None or not row.latency_ms or not reference.latency_ms:
        return None
    factors = {
        sensor: row.latency_ms[sensor] / reference.latency_ms[sensor]
        for sensor in report.sensors
        if sensor in row.latency_ms and reference.latency_ms.get(sensor)
    }
    if not factors:
        return None
    times = ", ".join(f"{SENSOR_LABELS[sensor]} {row.latency_ms[sensor]:.1f}" for sensor in factors)
    return "latency", f"\N{MULTIPLICATION SIGN}{max(factors.values()):.2f}", f"of float32's at most; {times} ms"


def _parity_fact(report: Report) -> tuple[str, str, str] | None:
    same, total = (sum(getattr(one, key) for one in report.parity.values()) for key in ("same", "of"))
    if not total:
        return None
    counts = ", ".join(f"{SENSOR_LABELS[sensor]} {one.same} of {one.of}" for sensor, one in report.parity.items())
    return "detections as measured", f"{100 * same / total:.1f} %", f"by the graphs in ONNX Runtime: {counts}"


def _shown_row(report: Report) -> Row | None:
    """The bundle's row, or the last one that was tried."""
    return report.row(report.final) if report.final else (report.rows[-1] if report.rows else None)
