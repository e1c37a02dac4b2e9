"""The one law, as a process sees it: what an import really loads. import-linter checks the source text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GROUND_ONLY = {"torch", "torchvision", "transformers", "timm", "accelerate", "matplotlib", "onnx", "train", "compress"}
LOADED_WHEN_USED = {"cv2", "onnxruntime", "rasterio"}
ENGINES = {"onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda"}
_LOAD_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _load_all(package: str, folder: Path) -> tuple[list[str], set[str]]:
    """Every module of ``package``, and the top-level packages that importing them all loads in a fresh process."""
    command = [sys.executable, "-c", _LOAD_ALL, package]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    names, loaded = json.loads(done.stdout)
    return names, set(loaded)


@pytest.mark.parametrize("package", ["babelrs", "runtime"])
def test_what_flies_never_loads_the_training_stack(package: str, repository: Path) -> None:
    names, loaded = _load_all(package, repository)
    assert len(names) > 3 and not loaded & GROUND_ONLY


def test_the_runtime_loads_an_engine_only_when_one_is_opened(repository: Path) -> None:
    _, loaded = _load_all("runtime", repository)
    assert not loaded & ENGINES


def test_the_vocabulary_loads_heavy_libraries_only_when_used(repository: Path) -> None:
    _, loaded = _load_all("babelrs", repository)
    assert not loaded & LOADED_WHEN_USED


def test_the_source_folder_does_not_hide_the_compiled_extension(repository: Path) -> None:
    command = [sys.executable, "-c", "import babelrs, babelrs._native as n; print(babelrs.__file__); print(n.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    source, native = done.stdout.split()
    assert Path(source).parent == repository / "babelrs" and native.endswith(".so")


def test_sources_without_the_extension_say_how_to_install_it(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "babelrs", tmp_path / "babelrs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    isolated = f"import sys; sys.meta_path[:] = sys.meta_path[-3:]; sys.path.insert(0, {str(tmp_path)!r})"
    command = [sys.executable, "-c", f"{isolated}\nimport babelrs.boxes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and "pip install --editable ." in done.stderr
