"""From operations and bytes to time on a target: predicted, never measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from babelrs.bundle import Bundle
from babelrs.sensors import Sensor
from benchmarks.graph_cost import GraphCost, Kernel, graph_cost
from benchmarks.static_graph import StaticGraph, read_model, static_graph
from compress.targets import Target


@dataclass(frozen=True)
class Prediction:
    """One sensor's graph on one target at one batch size; all times are predicted, in milliseconds a batch.

    Attributes:
        target: The device.
        sensor: Whose graph.
        precision: Of that graph, as the manifest says.
        batch: Images.
        cost: What is computed and moved.
        bandwidth_ms: Floor that memory sets: all bytes at the full bandwidth.
        arithmetic_ms: Floor that arithmetic sets: all operations at the full peaks of their precisions.
        floor_ms: Every kernel at the slower of the two.
        planned_ms: The same at the target's stated shares of bandwidth and peaks, every kernel's start added.
    """

    target: Target
    sensor: Sensor
    precision: str
    batch: int
    cost: GraphCost
    bandwidth_ms: float
    arithmetic_ms: float
    floor_ms: float
    planned_ms: float

    @property
    def bound(self) -> Literal["bandwidth", "arithmetic"]:
        """Which of the two floors is higher."""
        return "bandwidth" if self.bandwidth_ms > self.arithmetic_ms else "arithmetic"

    @property
    def operations(self) -> int:
        """Of all precisions."""
        return sum(self.cost.operations.values())

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "target": self.target.name,
            "sensor": self.sensor.value,
            "precision": self.precision,
            "batch": self.batch,
            "kernels": len(self.cost.kernels),
            "gflop": {name: count / 1e9 for name, count in self.cost.operations.items()},
            "gflop_multiply_add": self.cost.product_operations / 1e9,
            "mb_moved": self.cost.moved_bytes / 1e6,
            "mb_moved_unfused": self.cost.unfused_bytes / 1e6,
            "mb_weights": self.cost.weight_bytes / 1e6,
            "predicted_bandwidth_floor_ms": self.bandwidth_ms,
            "predicted_arithmetic_floor_ms": self.arithmetic_ms,
            "predicted_floor_ms": self.floor_ms,
            "predicted_bound": self.bound,
            "predicted_ms": self.planned_ms,
            "predicted_images_per_s": 1e3 * self.batch / self.planned_ms,
        }


def predict(target: Target, sensor: Sensor, precision: str, batch: int, cost: GraphCost) -> Prediction:
    """Hold a graph's cost against a target's figures."""
    memory = [memory_ms(kernel, target) for kernel in cost.kernels]
    compute = [compute_ms(kernel, target) for kernel in cost.kernels]
    floor = sum(map(max, memory, compute))
    planned = sum(planned_ms(kernel, target) for kernel in cost.kernels)
    return Prediction(target, sensor, precision, batch, cost, sum(memory), sum(compute), floor, planned)


def planned_ms(kernel: Kernel, target: Target) -> float:
    """Time for a kernel at the shares of bandwidth and peaks that one may count on, its start added."""
    work = max(memory_ms(kernel, target) / target.bandwidth_share, compute_ms(kernel, target) / target.peak_share)
    return work + target.kernel_us / 1e3


def memory_ms(kernel: Kernel, target: Target) -> float:
    """Time for a kernel's bytes at the full bandwidth."""
    return kernel.moved_bytes / target.bandwidth_gb_s / 1e6


def compute_ms(kernel: Kernel, target: Target) -> float:
    """Time for a kernel's operations at the full peaks."""
    return sum(1e3 * count / target.peak(precision) for precision, count in kernel.operations.items())


def predictions(bundle: Bundle, targets: Sequence[Target]) -> list[Prediction]:
    """Every target, sensor and batch: one image, and the target's best batch.

    Raises:
        BabelRSError: A graph is missing, damaged, or holds what cannot be counted.
    """
    graphs: dict[tuple[Sensor, int], StaticGraph] = {}
    costs: dict[tuple[Sensor, int, str], GraphCost] = {}
    found = []
    for target in targets:
        for sensor, entry in sorted(bundle.manifest.sensors.items(), key=lambda item: list(Sensor).index(item[0])):
            for batch in sorted({1, target.batch_profile[1]}):
                if (sensor, batch) not in graphs:
                    graphs[sensor, batch] = static_graph(read_model(bundle.folder / entry.graph), batch)
                key = (sensor, batch, target.kind)
                if key not in costs:
                    costs[key] = graph_cost(graphs[sensor, batch], target.kind)
                found.append(predict(target, sensor, entry.precision, batch, costs[key]))
    return found
