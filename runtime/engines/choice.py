"""Which of the engines in the cache serves here: one built from this bundle, on this GPU, by this TensorRT, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babelrs.bundle import Bundle
from babelrs.errors import DeviceError
from babelrs.sensors import Sensor
from runtime.engines.cache import EngineCache, EngineKey, EngineRecord, plugin_digest
from runtime.engines.cuda import Cuda, Gpu, open_cuda
from runtime.engines.plugin import find_plugin, load_plugin
from runtime.engines.tensorrt import TensorRTEngine
from runtime.engines.tensorrt_api import TensorRT, find_tensorrt
from runtime.engines.trial import image_ms


def open_cached(bundle: Bundle, sensor: Sensor, cache: EngineCache, records: Sequence[EngineRecord]) -> TensorRTEngine:
    """The engine that ``babelrs-build`` kept for this bundle, sensor and device.

    Args:
        bundle: The bundle.
        sensor: Whose graph.
        cache: Where engines lie.
        records: What was kept for this bundle and sensor, on whatever device; at least one.

    Raises:
        DeviceError: None is for this device, or it does not load; says why, and what to do.
    """
    faults = []
    for module in dict.fromkeys(record.key.module for record in records):
        try:
            api = find_tensorrt(module)
        except DeviceError as error:
            faults.append(error.what)
            continue
        return _open_fitting(bundle, sensor, cache, api, [each for each in records if each.key.module == module])
    raise DeviceError(" ".join(faults), "Install what built the engines, or run babelrs-build again.")


def _open_fitting(
    bundle: Bundle, sensor: Sensor, cache: EngineCache, api: TensorRT, records: list[EngineRecord]
) -> TensorRTEngine:
    cuda = open_cuda()
    library = find_plugin(api)
    wanted = key_of(bundle, sensor, api, cuda.gpu, library)
    fitting = [record for record in records if record.key.fits(wanted)]
    if not fitting:
        others = sorted({_differences(record.key, wanted) for record in records})
        what = f"The engines for {sensor} were built for another device or version: {'; '.join(others)}."
        raise DeviceError(what, f"Build again here: babelrs-build {bundle.folder}.")
    record = min(fitting, key=image_ms)
    if library is not None:
        load_plugin(api, library)
    plan = cache.load(record)
    entry = bundle.manifest.entry(sensor)
    engine = TensorRTEngine(api, cuda, plan, entry, record.key.precision, record.graph_batches)
    engine.reason = f"built and checked on this {cuda.gpu.name} by {api.name} {api.version}, {record.reason}"
    return engine


def key_of(bundle: Bundle, sensor: Sensor, api: TensorRT, gpu: Gpu, library: Path | None) -> EngineKey:
    """The key of an engine built here, without precision and batches."""
    return EngineKey(
        bundle=bundle.digest,
        sensor=sensor.value,
        gpu=f"{gpu.name}, {gpu.multiprocessors} multiprocessors",
        compute_capability=gpu.compute_capability,
        module=api.name,
        version=api.version,
        precision="",
        batches=(),
        plugin=plugin_digest(library),
    )


def open_plan(api: TensorRT, cuda: Cuda, bundle: Bundle, sensor: Sensor, plan: bytes, precision: str) -> TensorRTEngine:
    """An engine that was just built, for its trial."""
    return TensorRTEngine(api, cuda, plan, bundle.manifest.entry(sensor), precision)


def _differences(found: EngineKey, wanted: EngineKey) -> str:
    names = ("gpu", "compute_capability", "version", "plugin")
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in names]
    return ", ".join(f"{name} {ours or 'none'}, here {here or 'none'}" for name, ours, here in pairs if ours != here)
