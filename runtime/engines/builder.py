"""An ONNX graph to a plan, by TensorRT's parser and builder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babelrs.errors import DeviceError
from babelrs.manifest import SensorEntry
from runtime.engines.cache import Batches
from runtime.engines.tensorrt_api import Log, TensorRT

INPUT, OUTPUTS = "pixels", ("boxes", "scores", "labels")
TYPES = {"pixels": "UINT8", "boxes": "FLOAT", "scores": "FLOAT", "labels": "INT32"}


@dataclass(frozen=True)
class BuildJob:
    """What to build.

    Attributes:
        model: The ONNX file, edited or not.
        path: Where it came from: its external weights lie beside it.
        entry: The sensor's entry in the manifest.
        batches: Least, best and most tiles of every optimization profile.
        workspace_bytes: Most memory that a layer may take while it runs.
        timing: What earlier builds measured; empty for none.
        capabilities: Build for these compute capabilities without a GPU (TensorRT-RTX only); empty: for the GPU here.
    """

    model: bytes
    path: Path
    entry: SensorEntry
    batches: Batches
    workspace_bytes: int
    timing: bytes = b""
    capabilities: Sequence[str] = ()


def build_plan(api: TensorRT, job: BuildJob) -> tuple[bytes, bytes]:
    """Build a strongly typed engine.

    Returns:
        The plan, and the timing cache to keep; the latter is empty where the module has none.

    Raises:
        BabelRSError: A compute capability is none that can be built for.
        DeviceError: TensorRT cannot parse or build the graph; says why.
    """
    log = Log(api)
    builder = api.module.Builder(log.sink)
    if builder is None:
        raise DeviceError(f"{api.name} does not start ({log.reason()}).", "Check the GPU's driver.")
    network = builder.create_network(api.network_flags)
    _parse(api, job, network, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.module.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    config.clear_flag(api.module.BuilderFlag.TF32)  # on unless told: float32 would keep 10 bits of its mantissa
    if job.capabilities:
        config.num_compute_capabilities = len(job.capabilities)
        for index, capability in enumerate(job.capabilities):
            config.set_compute_capability(api.compute_capability(capability), index)
    for least, best, most in job.batches:
        profile = builder.create_optimization_profile()
        shape = (job.entry.input_height, job.entry.input_width, job.entry.channels)
        profile.set_shape(INPUT, (least, *shape), (best, *shape), (most, *shape))
        config.add_optimization_profile(profile)
    timing = _attach_timing(api, config, job.timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = f"{job.path}: {api.name} {api.version} cannot build the engine ({log.reason()})."
        raise DeviceError(what, "Free memory, give less --workspace-mib or --batch, or another --precision.")
    return bytes(plan), bytes(timing.serialize()) if timing is not None else b""


def _parse(api: TensorRT, job: BuildJob, network: Any, log: Log) -> None:
    parser = api.module.OnnxParser(network, log.sink)
    parsed = parser.parse(job.model, str(job.path))
    faults = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    if not parsed:
        what = f"{job.path}: {api.name} {api.version} cannot parse the graph ({log.reason(faults)})."
        raise DeviceError(what, "Make the bundle for this target with compress.quantize --target.")
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    found = {tensor.name: tensor.dtype.name for tensor in tensors}
    if found != TYPES:
        raise DeviceError(f"{job.path}: takes and gives {found}, where {TYPES} belong.", "Make the bundle again.")


def _attach_timing(api: TensorRT, config: Any, content: bytes) -> Any:
    """The timing cache of a build; None where the module has none. One that does not fit starts empty."""
    if api.is_rtx:
        return None
    timing = None
    with suppress(Exception):  # what a killed build or another version left
        timing = config.create_timing_cache(content)
    if timing is None or not config.set_timing_cache(timing, False):
        timing = config.create_timing_cache(b"")
        config.set_timing_cache(timing, False)
    return timing
