"""The forms a bundle's graph can be built in: as it is, and an INT8 graph without its quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from babelrs.bundle import Bundle
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.engines.graph_check import check_graph
from runtime.engines.onnx_edit import names_plugin, quantized_over, without_function, without_quantization
from runtime.engines.plugin import DOMAIN, NAME, VERSION

PRECISIONS = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class Candidate:
    """A graph to build.

    Attributes:
        precision: Its precision.
        model: Gives the ONNX file's bytes.
    """

    precision: str
    model: Callable[[], bytes]


def candidates(bundle: Bundle, sensor: Sensor, plugin: bool) -> list[Candidate]:
    """What a sensor's graph can be built as, the bundle's own form first.

    An INT8 graph gives float16 as well (float32 where its scales are): INT8 is not always the faster.

    Args:
        bundle: The bundle.
        sensor: Whose graph.
        plugin: The plugin takes the place of the function's body, where the graph names it.

    Raises:
        BabelRSError: The graph is no ONNX file, or reaches beyond the bundle.
    """
    entry = bundle.manifest.entry(sensor)
    stored = check_graph(bundle, sensor)
    by_plugin = plugin and names_plugin(stored, DOMAIN, NAME, VERSION)  # older bundles name none
    model = without_function(stored, DOMAIN, NAME) if by_plugin else stored
    found = [Candidate(entry.precision, lambda: model)]
    over = quantized_over(stored, bundle.folder)
    if over is not None and over != entry.precision:
        found.append(Candidate(over, lambda: without_quantization(model, bundle.folder)))
    return found


def weight_bytes(bundle: Bundle, sensor: Sensor) -> int:
    """Size of a sensor's graph and of the weights beside it; an upper bound, since other sensors share the latter."""
    names = [bundle.manifest.entry(sensor).graph, *(name for name in bundle.manifest.files if name.endswith(".bin"))]
    return sum((bundle.folder / name).stat().st_size for name in names)


def check_precisions(names: tuple[str, ...]) -> None:
    """Refuse unknown precisions.

    Raises:
        BabelRSError: Names them.
    """
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise BabelRSError(f"Unknown --precision {', '.join(unknown)}.", f"Use any of: {','.join(PRECISIONS)}.")


def graph_path(bundle: Bundle, sensor: Sensor) -> Path:
    """Where a sensor's graph lies."""
    return bundle.folder / bundle.manifest.entry(sensor).graph
