"""The CUDA toolkit's programs: where they are, what they print."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from babelrs.errors import BabelRSError

SOURCES = Path(__file__).resolve().parents[1] / "cmake_ext"


def find_tool(name: str) -> str:
    """Path of a program: on PATH, under CUDA_HOME, in the usual place, or among those Triton brings.

    Raises:
        BabelRSError: It is nowhere.
    """
    folders = [Path(os.environ[key]) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    folders.append(Path("/usr/local/cuda/bin"))
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    for found in (shutil.which(name), *(shutil.which(name, path=str(folder)) for folder in folders)):
        if found is not None:
            return found
    raise BabelRSError(f"{name} was not found.", "Install the CUDA toolkit, and put its bin folder on PATH.")


def output_of(command: Sequence[str]) -> str:
    """Everything a program prints; it finds the programs beside it.

    Raises:
        BabelRSError: It fails.
    """
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])}
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if run.returncode != 0:
        said = "\n".join(run.stdout.splitlines()[-10:])
        raise BabelRSError(
            f"{Path(command[0]).name} failed ({run.returncode}):\n{said}", "Check the toolkit's version."
        )
    return run.stdout


def tool_version(name: str) -> str:
    """Release of a program, such as ``13.0.88``."""
    match = re.search(r"V(\d+(?:\.\d+)+)", output_of([find_tool(name), "--version"]))
    return match[1] if match else "unknown"
