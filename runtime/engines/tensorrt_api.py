"""TensorRT and TensorRT-RTX behind one face: which module there is, and where versions differ.

| | tensorrt 10.3 to 10.x | tensorrt 11.x | tensorrt_rtx |
|---|---|---|---|
| strong typing | a flag of the network | always; the flag is ignored | a flag of the network |
| timing cache | yes | yes | deprecated, of no use |
| plugins | yes | yes | no |
| builds without a GPU | no | no | yes, for stated compute capabilities |

All else that is used here has the same names in all of them: ``OnnxParser.parse(model, path)``, named tensors,
``execute_async_v3``, ``set_memory_pool_limit``, optimization profiles.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from babelrs.errors import BabelRSError, DeviceError

MODULES = ("tensorrt", "tensorrt_rtx")
"""In order of preference."""
OLDEST, NEWEST_MAJOR = (10, 3), 11
_LOGGER = logging.getLogger(__name__)
_MOST_ERRORS = 20


@dataclass(frozen=True)
class TensorRT:
    """A module with TensorRT's interface.

    Attributes:
        name: The name it is imported by, one of :data:`MODULES`.
        module: The module.
        version: Its full version: plans are valid for no other.
    """

    name: str
    module: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX: no plugins, no timing cache, builds without a GPU."""
        return self.name == "tensorrt_rtx"

    @property
    def network_flags(self) -> int:
        """Flags of a strongly typed network."""
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)  # TensorRT 11 has no other networks

    def compute_capability(self, capability: str) -> Any:
        """The module's constant for ``8.6`` and the like.

        Raises:
            BabelRSError: This version builds for no such GPU without having one.
        """
        names = [name for name in dir(self.module.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
        name = f"SM{capability.replace('.', '')}"
        if name not in names:
            known = ", ".join(sorted((f"{each[2:-1]}.{each[-1]}" for each in names), key=float))
            what = f"{self.name} {self.version} cannot build for compute capability {capability} without that GPU."
            raise BabelRSError(what, f"Give one of {known}, or build on the device.")
        return getattr(self.module.ComputeCapability, name)


def find_tensorrt(name: str = "auto") -> TensorRT:
    """Import TensorRT.

    Args:
        name: One of :data:`MODULES`; ``auto`` takes the first that can be imported.

    Raises:
        BabelRSError: ``name`` is none of them.
        DeviceError: There is none, it does not load, or it is too old.
    """
    if name not in ("auto", *MODULES):
        raise BabelRSError(f"Unknown module {name!r}.", f"Use one of: auto, {', '.join(MODULES)}.")
    faults = []
    for each in MODULES if name == "auto" else (name,):
        try:
            module = importlib.import_module(each)
            return _checked(each, module)
        except DeviceError as error:
            faults.append(error.what)
        except Exception as error:  # a library that does not load raises whatever it likes
            faults.append(f"{each} cannot be imported ({_first_line(error)})")
    what = f"No TensorRT: {'; '.join(faults)}."
    raise DeviceError(what, "It comes with JetPack; elsewhere install tensorrt 10.3 or later, or tensorrt_rtx.")


def _checked(name: str, module: Any) -> TensorRT:
    version = str(getattr(module, "__version__", "0"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name == "tensorrt" and numbers < OLDEST:
        raise DeviceError(f"{name} is {version}, where 10.3 is the oldest that serves", "Install a newer one.")
    if name == "tensorrt" and numbers[0] > NEWEST_MAJOR:
        _LOGGER.warning("tensorrt %s is newer than any this was made for (10.3 to 11.x)", version)
    return TensorRT(name, module, version)


class Log:
    """What TensorRT says: errors are kept for messages, a warning goes to ``logging`` once, all else nowhere."""

    def __init__(self, api: TensorRT) -> None:
        self._errors: list[str] = []
        self._said: set[str] = set()
        self.sink = _make_sink(api.module, self)

    def take(self, severity: str, message: str) -> None:
        """A line of TensorRT's."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors = [*self._errors, message][-_MOST_ERRORS:]
        elif severity == "WARNING" and message not in self._said:
            self._said.add(message)
            _LOGGER.debug("TensorRT: %s", message)

    def reason(self, others: Sequence[str] = ()) -> str:
        """The first error since the last call, in one line, or that there was none."""
        lines, self._errors = [*others, *self._errors], []
        return " ".join(lines[0].split())[:400] if lines else "TensorRT gave no reason"


def _make_sink(module: Any, log: Log) -> Any:
    class Sink(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity.name, message)

    return Sink()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
