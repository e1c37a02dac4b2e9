"""Devices that bundles are made for, as data: the built-in table and a user's own file over it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor

BUILT_IN = Path(__file__).with_name("targets.yaml")

Kind = Literal["tensorrt", "onnxruntime"]
Precision = Literal["fp32", "fp16", "int8"]

# YAML knows its types: what it read as a text or a truth value is no number
_Number = Annotated[float, Field(strict=True, gt=0)]
_Share = Annotated[float, Field(strict=True, gt=0, le=1)]
_Count = Annotated[int, Field(strict=True, ge=1)]
_Version = Annotated[str, Field(pattern=r"^\d+\.\d+$")]  # a text: as a number 10.10 would be 10.1


class Target(BaseModel):
    """A device, and what its graphs must be like. Figures are public or stated, not measured.

    Attributes:
        name: How it is asked for.
        description: The device in words.
        aliases: Other names of it.
        kind: The engine its graphs are made for.
        compute_capability: Of its GPU, ``8.7``; ``None`` on CPU targets.
        tensorrt: Least and most TensorRT version; ``None`` on CPU targets.
        precisions: That its engine computes in.
        qdq: ``symmetric_int8``: int8 weights and activations, as TensorRT takes them; ``uint8_activations``: uint8
            activations and int8 weights, which ONNX Runtime is fast with on CPUs.
        reduce_range: Whether those weights use 7 bits, so that x86 CPUs without VNNI do not saturate.
        memory_gib: Memory of the device, GiB.
        bandwidth_gb_s: Of that memory, GB/s.
        peak_tops_int8: Dense int8 peak, 10^12 operations a second; a multiply-add is two.
        peak_tflops_fp16: Dense float16 peak, 10^12 operations a second.
        peak_gflops_fp32: float32 peak, 10^9 operations a second.
        bandwidth_share: Share of the bandwidth that one may count on.
        peak_share: Share of a peak that one may count on.
        kernel_us: Time that starting a kernel adds to its work, microseconds.
        batch_profile: Least, best and most images of a batch.
        input_px: Rows and columns of a sensor's input in place of the checkpoint's, pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    kind: Kind
    compute_capability: _Version | None = None
    tensorrt: tuple[_Version, _Version] | None = None
    precisions: tuple[Precision, ...] = Field(min_length=1)
    qdq: Literal["symmetric_int8", "uint8_activations"]
    reduce_range: Annotated[bool, Field(strict=True)] = False
    memory_gib: _Number
    bandwidth_gb_s: _Number
    peak_tops_int8: _Number | None = None
    peak_tflops_fp16: _Number | None = None
    peak_gflops_fp32: _Number
    bandwidth_share: _Share
    peak_share: _Share
    kernel_us: Annotated[float, Field(strict=True, ge=0)]
    batch_profile: tuple[_Count, _Count, _Count]
    input_px: Mapping[Sensor, tuple[_Count, _Count]] = {}

    def peak(self, precision: Precision) -> float:
        """Operations a second in ``precision``, or in the next wider one where the engine does not compute in it."""
        peaks = {
            "int8": (self.peak_tops_int8 or 0) * 1e12,
            "fp16": (self.peak_tflops_fp16 or 0) * 1e12,
            "fp32": self.peak_gflops_fp32 * 1e9,
        }
        wider = list(peaks)[list(peaks).index(precision) :]
        return next((peaks[each] for each in wider if each in self.precisions), peaks["fp32"])

    @field_validator("compute_capability", "tensorrt")
    @classmethod
    def _gpu_only(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if (kind == "tensorrt" and value is None) or (kind == "onnxruntime" and value is not None):
            raise ValueError("tensorrt targets need it" if value is None else "onnxruntime targets have none")
        if isinstance(value, tuple) and [_ordinal(each) for each in value] != sorted(map(_ordinal, value)):
            raise ValueError("the least version comes first")
        return value

    @field_validator("qdq", "reduce_range")
    @classmethod
    def _fits_engine(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "uint8_activations" and info.data.get("kind") == "tensorrt":
            raise ValueError("TensorRT takes symmetric_int8")
        if value is True and info.data.get("qdq") == "symmetric_int8":
            raise ValueError("only with qdq: uint8_activations")
        return value

    @field_validator("peak_tops_int8", "peak_tflops_fp16")
    @classmethod
    def _peak_known(cls, value: float | None, info: ValidationInfo) -> float | None:
        precision = str(info.field_name).rsplit("_", 1)[1]
        if value is None and precision in info.data.get("precisions", ()):
            raise ValueError(f"needed, since precisions has {precision}")
        return value

    @field_validator("batch_profile")
    @classmethod
    def _in_order(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if list(value) != sorted(value):
            raise ValueError("least, best and most must not fall")
        return value


def read_targets(extra: Path | None = None) -> dict[str, Target]:
    """The built-in targets, and those of a user's YAML file over them.

    Args:
        extra: Maps names to fields; an entry may say ``based_on: NAME`` and give only what differs.

    Raises:
        BabelRSError: The file cannot be read, or entries are wrong; every fault is listed.
    """
    targets = _parsed(BUILT_IN, {})
    return targets if extra is None else {**targets, **_parsed(extra, {**_aliases(targets), **targets})}


def find_target(name: str, targets: Mapping[str, Target]) -> Target:
    """The target of this name, or with this alias.

    Raises:
        BabelRSError: There is none; the message lists the names and suggests the nearest.
    """
    aliases = _aliases(targets)
    if found := targets.get(name, aliases.get(name)):
        return found
    hint = _nearest(name, [*targets, *aliases])
    raise BabelRSError(f"Unknown target {name!r}.{hint}", f"Known targets: {', '.join(sorted(targets))}.")


def _aliases(targets: Mapping[str, Target]) -> dict[str, Target]:
    return {alias: target for target in targets.values() for alias in target.aliases}


def _parsed(path: Path, known: Mapping[str, Target]) -> dict[str, Target]:
    """The targets of a file; ``based_on`` may name one of the file or of ``known``."""
    entries = _read(path)
    found, faults = {}, []
    for name, entry in entries.items():
        if not isinstance(name, str) or not isinstance(entry, dict):
            faults.append(f"{name}: {_shown(entry)} is not a mapping of fields under a name")
            continue
        layers, fault = _layers(name, entries, known)
        faults += [fault] if fault else []
        fields: dict[Any, Any] = {}
        for layer in reversed(layers):
            fields = {**fields, "aliases": (), **layer}  # other names are a target's own
        if "name" in fields:
            faults.append(f"{name}.name: unknown field; the entry's key is the name")
        try:
            found[name] = Target.model_validate({**fields, "name": name})
        except ValidationError as error:
            faults += _faults(name, error, based=fault == "")
    if faults:
        raise collected(
            f"The targets in {path} are wrong", faults, "Correct them; compress/targets.yaml is an example."
        )
    return found


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BabelRSError(f"Cannot read the targets file {path}: {error}.", "Give a readable YAML file.") from None
    if not isinstance(loaded or {}, dict):
        raise BabelRSError(f"{path} holds a {type(loaded).__name__}.", "A targets file maps names to fields.")
    return loaded or {}


def _layers(name: str, entries: Mapping[Any, Any], known: Mapping[str, Target]) -> tuple[list[Mapping[Any, Any]], str]:
    """An entry, what it is based on, and so on; and what is wrong with that, or an empty text."""
    layers: list[Mapping[Any, Any]] = []
    seen: list[str] = []
    current = name
    while True:
        seen.append(current)
        entry = entries[current]
        if not isinstance(entry, dict):  # a fault of that entry's own
            return layers, f"{name}.based_on: {current!r} is wrong itself"
        layers.append({key: value for key, value in entry.items() if key != "based_on"})
        if "based_on" not in entry:
            return layers, ""
        base = entry["based_on"]
        if not isinstance(base, str):
            return layers, f"{name}.based_on: {_shown(base)} is not a name"
        if base in known and (base == current or base not in entries):
            return [*layers, known[base].model_dump(exclude={"name"})], ""
        if base in seen:
            return layers, f"{name}.based_on: goes round in a circle ({' -> '.join([*seen, base])})"
        if base not in entries:
            hint = _nearest(base, [*map(str, entries), *known])
            return layers, f"{name}.based_on: unknown target {_shown(base)}.{hint}"
        current = base


def _faults(name: str, error: ValidationError, based: bool) -> Iterator[str]:
    """Every fault of an entry; fields can be missing only where what the entry is based on is known."""
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            if based:
                yield f"{name}.{field}: missing"
        elif fault["type"] == "extra_forbidden":
            yield f"{name}.{field}: unknown field.{_nearest(field, list(Target.model_fields))}"
        elif fault["type"] != "too_short" or not fault["input"]:  # else its items were wrong, and are listed
            quote = " in quotes" if fault["type"] == "string_type" else ""
            message = fault["msg"].removeprefix("Value error, ")
            yield f"{name}.{field}: {message}{quote} (got {_shown(fault['input'])})"


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _ordinal(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
