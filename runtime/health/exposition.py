"""A health report as Prometheus reads it: text exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = dict[str, str]
Samples = Iterator[tuple[Labels, float]]
Report = Mapping[str, Any]


def exposition(report: Report) -> str:
    """The report of :meth:`runtime.health.monitor.Monitor.snapshot` as text; what it does not have is left out."""
    lines = []
    for name, kind, text, samples_of in FAMILIES:
        samples = [f"babelrs_{name}{_labelled(labels)} {float(value)!r}" for labels, value in samples_of(report)]
        if samples:
            lines += [f"# HELP babelrs_{name} {text}", f"# TYPE babelrs_{name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _labelled(labels: Labels) -> str:
    text = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{text}}}" if text else ""


def _one(*path: str) -> Callable[[Report], Samples]:
    """A number at a place of the report."""

    def samples(report: Report) -> Samples:
        value: Any = report
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield {}, value

    return samples


def _each(label: str, *path: str) -> Callable[[Report], Samples]:
    """The numbers of a mapping at a place of the report."""

    def samples(report: Report) -> Samples:
        values: Any = report
        for name in path:
            values = values.get(name, {})
        for name, value in values.items():
            yield {label: name}, value

    return samples


def _latencies(report: Report) -> Samples:
    for stage, percentiles in report["latency_ms"].items():
        for name, value in percentiles.items():
            yield {"stage": stage, "quantile": f"{int(name[1:]) / 100:g}"}, round(value / 1e3, 9)


def _stages(report: Report) -> Samples:
    for name, stage in report["stages"].items():
        yield {"stage": name}, stage["answered_s"]


def _queues(report: Report) -> Samples:
    for name, depths in report["queues"].items():
        for place, depth in enumerate(depths):
            yield {"queue": name, "place": str(place)}, depth


def _sources(field: str) -> Callable[[Report], Samples]:
    def samples(report: Report) -> Samples:
        for place, source in enumerate(report["sources"]):
            if source.get(field) is not None:
                yield {"source": source["name"], "place": str(place), "sensor": source["sensor"]}, source[field]

    return samples


def _zones(report: Report) -> Samples:
    for zone in report.get("device", {}).get("zones", ()):
        yield {"zone": zone["name"]}, zone["celsius"]


def _throttled(report: Report) -> Samples:
    if "device" in report:
        yield {}, len(report["device"].get("throttled", ()))


def _integrity(report: Report) -> Samples:
    for sensor, counts in report.get("integrity", {}).items():
        for what, count in counts.items():
            yield {"sensor": sensor, "what": what}, count


def _link(field: str) -> Callable[[Report], Samples]:
    def samples(report: Report) -> Samples:
        for priority, count in report.get("link", {}).get(field, {}).items():
            yield {"priority": priority}, count

    return samples


def _level(report: Report) -> Samples:
    if "degrading" in report:
        yield {"level": report["degrading"]["level"]}, 1


FAMILIES: tuple[tuple[str, str, str, Callable[[Report], Samples]], ...] = (
    ("healthy", "gauge", "Whether every stage answers.", _one("healthy")),
    ("uptime_seconds", "gauge", "Seconds since the start.", _one("uptime_s")),
    ("images_total", "counter", "Images with a result.", _one("images")),
    ("detections_total", "counter", "Detections in them.", _one("detections")),
    ("skipped_total", "counter", "Images that could not be used, by cause.", _each("cause", "skipped")),
    ("dropped_total", "counter", "Live frames that newer ones replaced.", _one("dropped")),
    ("left_out_total", "counter", "Live frames that were left out to save time or heat.", _one("left_out")),
    ("under_way", "gauge", "Images that were taken and have no result yet.", _one("under_way")),
    ("images_per_second", "gauge", "Results a second over the last seconds.", _one("fps")),
    ("latency_seconds", "gauge", "Time of the last images, by stage and quantile.", _latencies),
    ("stage_answered_seconds", "gauge", "Seconds since a stage last answered.", _stages),
    ("queue_depth", "gauge", "Items that wait between stages.", _queues),
    ("source_connected", "gauge", "Whether frames of a live source come.", _sources("connected")),
    ("source_frame_age_seconds", "gauge", "Seconds since the last frame of a live source.", _sources("frame_age_s")),
    ("resident_bytes", "gauge", "Resident memory.", _one("process", "resident_bytes")),
    ("threads", "gauge", "Threads of the process.", _one("process", "threads")),
    ("descriptors", "gauge", "Open file descriptors.", _one("process", "descriptors")),
    ("cpu_seconds_total", "counter", "Processor time of the process.", _one("process", "cpu_s")),
    ("temperature_celsius", "gauge", "Temperature of a thermal zone.", _zones),
    ("clock_megahertz", "gauge", "Present clock.", _each("clock", "device", "clocks_mhz")),
    ("power_watts", "gauge", "Power of a rail.", _each("rail", "device", "power_w")),
    ("throttled", "gauge", "How many parts are slowed down.", _throttled),
    ("throttle_events_total", "counter", "Over-current events.", _each("counter", "device", "throttle_events")),
    ("memory_available_bytes", "gauge", "What programs may still take.", _one("device", "memory_available_bytes")),
    ("level", "gauge", "The level of degrading that holds.", _level),
    ("level_changes_total", "counter", "Changes of that level.", _one("degrading", "changes")),
    ("integrity_total", "counter", "What the checks of engines did, by sensor.", _integrity),
    ("link_spooled", "gauge", "Messages that wait for the broker, by priority.", _link("spooled")),
    ("link_sent_total", "counter", "Messages that the broker acknowledged.", _link("sent")),
    ("link_dropped_total", "counter", "Messages that the spool had no room for.", _link("dropped")),
    ("engine_faults", "gauge", "Engine faults that still count.", _one("degrading", "faults")),
)
"""Names without ``babelrs_``, kinds, what they mean, and where a report has them."""
