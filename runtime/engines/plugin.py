"""The project's TensorRT plugin, where it was built: ``BABELRS_TENSORRT=ON pip install .``"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import babelrs
from babelrs.errors import BabelRSError, DeviceError
from runtime.engines.tensorrt_api import TensorRT

LIBRARY = "libbabelrs_tensorrt.so"
VARIABLE = "BABELRS_TENSORRT_PLUGIN"
"""Environment variable that names another library; empty: none is used."""
DOMAIN, NAME, VERSION = "babelrs", "LayerwiseAggregate", "1"


def find_plugin(api: TensorRT) -> Path | None:
    """The plugin library; None where it was not built, or the module takes no plugins.

    Raises:
        BabelRSError: The environment names a library that is not there.
    """
    if api.is_rtx:
        return None
    given = os.environ.get(VARIABLE)
    if given == "":
        return None
    if given is not None:
        if not Path(given).is_file():
            raise BabelRSError(f"{VARIABLE} is {given!r}: no such file.", "Correct it, or leave it unset.")
        return Path(given)
    places = (Path(folder) / "lib" / LIBRARY for folder in babelrs.__path__)
    return next((path for path in places if path.is_file()), None)


@cache
def load_plugin(api: TensorRT, library: Path) -> None:
    """Register the library's plugin, once a process.

    Raises:
        DeviceError: It does not load, or does not hold the plugin.
    """
    registry = api.module.get_plugin_registry()
    remedy = f"Build it again for TensorRT {api.version}, or set {VARIABLE} to nothing."
    try:
        registry.load_library(str(library))
    except Exception as error:  # the binding raises whatever it likes
        raise DeviceError(f"{library}: TensorRT cannot load it ({error}).", remedy) from error
    if registry.get_creator(NAME, VERSION, DOMAIN) is None:
        raise DeviceError(f"{library}: holds no plugin {DOMAIN}::{NAME} version {VERSION}.", remedy)
