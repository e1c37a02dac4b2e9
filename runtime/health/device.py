"""What Linux says of the device: temperatures, clocks, power and throttling. Every reading may be missing.

Pure readers of ``/sys`` and ``/proc`` below a root, so that tests can make a tree. A file that is missing, cannot be
read or holds no plausible number is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

Read = Callable[[Path], "str | None"]
"""The text of a small file, or ``None``."""

PLAUSIBLE_C = (-60.0, 200.0)
"""A zone without power says -256 on Jetsons; others give 0 or millions."""
TRIPS_C = (40.0, 150.0)
"""Firmware also has trip points that are never meant to be reached, or always are."""
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gb10b", re.IGNORECASE)
_SLOWING = re.compile(r"cpufreq|devfreq|processor|throttle|cpu|gpu|hot-surface|powerclamp", re.IGNORECASE)
"""Cooling devices that cool by doing less, unlike fans."""
_LISTED = 256  # entries of a folder that are looked at


@dataclass(frozen=True)
class Zone:
    """A thermal zone.

    Attributes:
        name: Its type, as in ``cpu-thermal`` or ``tj-thermal``; with a number where several are of one type.
        celsius: Its temperature.
        passive_c: Where the kernel begins to slow clocks down, if the zone says so.
        critical_c: Where it turns the device off, if the zone says so.
    """

    name: str
    celsius: float
    passive_c: float | None = None
    critical_c: float | None = None


@dataclass(frozen=True)
class DeviceState:
    """Readings of one moment; what is missing is absent.

    Attributes:
        zones: Thermal zones.
        clocks_mhz: Present clocks: ``cpu0`` ... by policy, ``gpu``.
        clock_limits_mhz: Most that each may have by its hardware.
        power_w: By rail, as in ``VDD_GPU_SOC``.
        throttled: What is slowed down now, and by what.
        throttle_events: Over-current events since the start, by counter.
        memory_available_bytes: What programs may still take.
        memory_total_bytes: All there is.
    """

    zones: tuple[Zone, ...] = ()
    clocks_mhz: dict[str, float] = field(default_factory=dict)
    clock_limits_mhz: dict[str, float] = field(default_factory=dict)
    power_w: dict[str, float] = field(default_factory=dict)
    throttled: tuple[str, ...] = ()
    throttle_events: dict[str, int] = field(default_factory=dict)
    memory_available_bytes: int | None = None
    memory_total_bytes: int | None = None


def read_text(path: Path) -> str | None:
    """The beginning of a file, or ``None`` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("ascii", "replace").strip("\0\n ")
    except (OSError, ValueError):
        return None


def read_device(root: Path = Path("/"), read: Read = read_text) -> DeviceState:
    """All readings below a root."""
    clocks = {**_cpu_clocks(root, read), **_gpu_clocks(root, read)}
    available, total = _memory(root, read)
    return DeviceState(
        zones=tuple(_zones(root, read)),
        clocks_mhz={name: clock.mhz for name, clock in clocks.items()},
        clock_limits_mhz={name: clock.most_mhz for name, clock in clocks.items() if clock.most_mhz is not None},
        power_w=_power(root, read),
        throttled=(*_slowing(root, read), *(f"{name} clock capped" for name, each in clocks.items() if each.is_capped)),
        throttle_events=_over_current(root, read),
        memory_available_bytes=available,
        memory_total_bytes=total,
    )


@dataclass(frozen=True)
class _Clock:
    mhz: float
    most_mhz: float | None
    is_capped: bool


def _number(read: Read, path: Path) -> int | None:
    text = read(path)
    return int(text) if text is not None and re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def _folders(root: Path, below: str, pattern: str) -> list[Path]:
    try:
        found = [path for path in (root / below).iterdir() if re.fullmatch(pattern, path.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: (len(path.name), path.name))[:_LISTED]


def _zones(root: Path, read: Read) -> Iterable[Zone]:
    seen: set[str] = set()
    for folder in _folders(root, "sys/class/thermal", r"thermal_zone\d+"):
        milli = _number(read, folder / "temp")
        if milli is None or not PLAUSIBLE_C[0] <= milli / 1e3 <= PLAUSIBLE_C[1]:
            continue
        name = read(folder / "type") or folder.name
        name = f"{name}-{folder.name.removeprefix('thermal_zone')}" if name in seen else name
        seen.add(name)
        trips = dict(_trips(folder, read))
        yield Zone(name, milli / 1e3, trips.get("passive"), trips.get("critical"))


def _trips(folder: Path, read: Read) -> Iterable[tuple[str, float]]:
    """The lowest plausible trip point of each kind; later ones of a dict win, so the lowest comes last."""
    found = []
    for kind_file in _folders(folder, "", r"trip_point_\d+_type"):
        kind, milli = read(kind_file), _number(read, kind_file.with_name(kind_file.name.replace("_type", "_temp")))
        if kind is not None and milli is not None and TRIPS_C[0] <= milli / 1e3 <= TRIPS_C[1]:
            found.append((kind, milli / 1e3))
    return sorted(found, key=lambda trip: -trip[1])


def _cpu_clocks(root: Path, read: Read) -> dict[str, _Clock]:
    clocks = {}
    for folder in _folders(root, "sys/devices/system/cpu/cpufreq", r"policy\d+"):
        now, most, cap = (
            _number(read, folder / name) for name in ("scaling_cur_freq", "cpuinfo_max_freq", "scaling_max_freq")
        )
        if now is not None and now > 0:  # kHz
            is_capped = most is not None and cap is not None and 0 < cap < most
            clocks[f"cpu{folder.name.removeprefix('policy')}"] = _Clock(now / 1e3, most and most / 1e3, is_capped)
    return clocks


def _gpu_clocks(root: Path, read: Read) -> dict[str, _Clock]:
    clocks: dict[str, _Clock] = {}
    for folder in _folders(root, "sys/class/devfreq", r".+"):
        now, most = _number(read, folder / "cur_freq"), _number(read, folder / "max_freq")
        if _GPU.search(folder.name) and now is not None and now >= 0:  # Hz
            name = "gpu" if not clocks else f"gpu-{folder.name}"
            clocks[name] = _Clock(now / 1e6, most and most / 1e6, False)
    return clocks


def _power(root: Path, read: Read) -> dict[str, float]:
    """Of INA3221 and its kin: volts times amperes by labelled rail, or the power that the sensor computes itself."""
    rails: dict[str, float] = {}
    for folder in _folders(root, "sys/class/hwmon", r"hwmon\d+"):
        chip = read(folder / "name") or ""
        if not chip.startswith("ina"):
            continue
        for number in range(1, 5):
            label = read(folder / f"in{number}_label") or read(folder / f"power{number}_label") or f"{chip}-{number}"
            watts = _watts(folder, number, read)
            if watts is not None:
                rails[label] = watts
    return rails


def _watts(folder: Path, number: int, read: Read) -> float | None:
    micro = _number(read, folder / f"power{number}_input")
    if micro is not None:
        return micro / 1e6
    milli_v, milli_a = (_number(read, folder / f"{kind}{number}_input") for kind in ("in", "curr"))
    return None if milli_v is None or milli_a is None else milli_v * milli_a / 1e6


def _slowing(root: Path, read: Read) -> Iterable[str]:
    for folder in _folders(root, "sys/class/thermal", r"cooling_device\d+"):
        kind, state = read(folder / "type") or "", _number(read, folder / "cur_state")
        if state is not None and state > 0 and _SLOWING.search(kind) and "fan" not in kind.lower():
            yield f"{kind} {state}"


def _over_current(root: Path, read: Read) -> dict[str, int]:
    """Jetson's ``soctherm_oc``: how often clocks were cut because the supply could not give more."""
    counts = {}
    for folder in _folders(root, "sys/class/hwmon", r"hwmon\d+"):
        for file in _folders(folder, "", r"oc\d+_event_cnt"):
            count = _number(read, file)
            if count is not None and count >= 0:
                counts[file.name.removesuffix("_event_cnt")] = count
    return counts


def _memory(root: Path, read: Read) -> tuple[int | None, int | None]:
    text = read(root / "proc/meminfo") or ""
    found = dict(re.findall(r"^(MemAvailable|MemTotal):\s+(\d{1,15}) kB", text, re.MULTILINE))
    available, total = (int(found[name]) * 1024 if name in found else None for name in ("MemAvailable", "MemTotal"))
    return available, total
