"""``babelrs-build``: a bundle's engines for this device, built, checked and timed."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, BabelRSError, DeviceError, run_command
from babelrs.sensors import Sensor
from runtime.arguments import add_require_signature

if TYPE_CHECKING:
    from babelrs.bundle import Bundle
    from runtime.build_sensor import Place
    from runtime.engines.cache import EngineRecord

_EPILOG = """\
Builds a strongly typed engine of every sensor in every precision that the bundle gives, runs the bundle's self-test on
each, times them, and keeps the fastest that passes; babelrs-run --engine auto then takes it. What is there already is
not built again, and a build that was stopped goes on where it was.

Memory: 600 MiB, 4 x the weights and the workspace must be free; otherwise nothing starts, and the numbers are said.

Exit codes: 0 every sensor has an engine, 1 no engine of a sensor passed its self-test, 2 the input is wrong, 3 the
device or TensorRT failed.
"""
_HEAD = (
    f"{'sensor':<8}{'precision':<11}{'build s':>8}{'MB':>8}{'ms, 1':>9}{'ms, most':>10}  {'self-test':<11}what became"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-build`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_build, argv)


def _build(argv: list[str]) -> int:
    given = _parser().parse_args(argv)
    precisions, capabilities = _names(given.precision), _names(given.compute_capability)
    _check(given, capabilities)
    logging.basicConfig(format="%(levelname)s: %(message)s", level="INFO", stream=sys.stderr)
    from babelrs.bundle import open_trusted
    from runtime.build_sensor import Wish, build_sensor
    from runtime.engines.cache import EngineCache
    from runtime.engines.candidates import check_precisions

    check_precisions(precisions)
    bundle = open_trusted(given.bundle, given.require_signature)
    sensors = _sensors(bundle, _names(given.sensor))
    place = open_place(given.module, capabilities)
    workspace = None if given.workspace_mib is None else given.workspace_mib << 20
    wish, cache = Wish(precisions, given.batch, workspace), EngineCache(given.cache)
    records: list[EngineRecord] = []
    faults: list[DeviceError] = []
    with cache.building(bundle.digest):
        for sensor in sensors:
            try:
                records += build_sensor(bundle, sensor, place, wish, cache)
            except DeviceError as error:
                faults.append(error)
    sys.stdout.write(format_table(records))
    if faults:
        raise faults[0]
    return EXIT_DONE if place.cuda is None else _verdict(records, sensors)


def _verdict(records: Sequence[EngineRecord], sensors: Sequence[Sensor]) -> int:
    served = {record.key.sensor for record in records if record.kept}
    missing = [sensor.value for sensor in sensors if sensor.value not in served]
    if missing:
        sys.stderr.write(f"error: No engine for {', '.join(missing)} passed its self-test; none was kept for them.\n")
    return EXIT_LIMIT_MISSED if missing else EXIT_DONE


def open_place(module: str, capabilities: tuple[str, ...] = ()) -> Place:
    """TensorRT and the GPU, with the plugin loaded; or TensorRT-RTX without a GPU, for stated compute capabilities.

    Raises:
        BabelRSError: Compute capabilities are given to a module that needs the GPU.
        DeviceError: There is no TensorRT, or no GPU.
    """
    from runtime.build_sensor import Place
    from runtime.engines.cuda import open_cuda
    from runtime.engines.plugin import find_plugin, load_plugin
    from runtime.engines.tensorrt_api import find_tensorrt

    api = find_tensorrt(module)
    if capabilities:
        if not api.is_rtx:
            raise BabelRSError(f"{api.name} builds on the GPU only.", "Leave out --compute-capability.")
        for capability in capabilities:
            api.compute_capability(capability)
        return Place(api, None, capabilities)
    try:
        cuda = open_cuda()
    except DeviceError as error:
        remedy = "Build on the device; tensorrt_rtx builds without a GPU for --compute-capability 8.6 and others."
        raise DeviceError(error.what, remedy) from None
    library = find_plugin(api)
    if library is not None:
        load_plugin(api, library)
    return Place(api, cuda, (), library)


def format_table(records: Sequence[EngineRecord]) -> str:
    """A line for every engine: build time, size, milliseconds of a single tile and of a full batch, and its fate."""
    lines = [_HEAD]
    for record in records:
        times = [min(times.values()) for _, times in sorted(_medians(record).items())]
        single, full = (f"{times[0]:.2f}", f"{times[-1]:.2f}") if times else ("-", "-")
        tested = "-" if not record.selftest else "ok" if record.passed else "FAILED"
        lines.append(
            f"{record.key.sensor:<8}{record.key.precision:<11}{record.build_s:>8.1f}{record.size_bytes / 1e6:>8.1f}"
            f"{single:>9}{full:>10}  {tested:<11}{record.reason}"
        )
    return "\n".join(lines) + "\n"


def _medians(record: EngineRecord) -> dict[int, dict[str, float]]:
    return {
        batch: {name: value for name, value in times.items() if name in ("median", "graph_median")}
        for batch, times in record.times_ms.items()
    }


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))


def _sensors(bundle: Bundle, names: tuple[str, ...]) -> list[Sensor]:
    sensors = [Sensor.parse(name) for name in names] or list(bundle.manifest.sensors)
    for sensor in sensors:
        bundle.manifest.entry(sensor)
    return sensors


def _check(given: argparse.Namespace, capabilities: tuple[str, ...]) -> None:
    if not 1 <= given.batch <= 256:
        raise BabelRSError(f"--batch is {given.batch}.", "Give 1 to 256.")
    if given.workspace_mib is not None and given.workspace_mib < 1:
        raise BabelRSError(f"--workspace-mib is {given.workspace_mib}.", "Give at least 1.")
    if wrong := [each for each in capabilities if not re.fullmatch(r"\d{1,2}\.\d", each)]:
        raise BabelRSError(f"--compute-capability {', '.join(wrong)} is none.", "Write it like 8.6.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="babelrs-build",
        description="Build a bundle's TensorRT engines on this device.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="bundle folder or .babelrs file")
    add_require_signature(parser)
    add("--sensor", default="", metavar="S[,S]", help="any of rgb,sar,ir (default: all of the bundle)")
    add("--precision", default="", metavar="P[,P]", help="any of int8,fp16,fp32 (default: all that the bundle gives)")
    add("--batch", type=int, default=4, metavar="N", help="most tiles in a run, as in babelrs-run (default: 4)")
    add("--workspace-mib", type=int, metavar="N", help="workspace of a layer, MiB (default: by the free memory)")
    add(
        "--cache", type=Path, metavar="DIR", help="where engines are kept (default: $BABELRS_CACHE or ~/.cache/babelrs)"
    )
    add("--module", choices=("auto", "tensorrt", "tensorrt_rtx"), default="auto", help="what builds (default: auto)")
    add(
        "--compute-capability",
        default="",
        metavar="C[,C]",
        help="build without a GPU for these, such as 8.6; tensorrt_rtx only; such engines are neither run nor checked",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
