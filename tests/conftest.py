"""Fixtures and the settings every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST_FIRST = (
    "test_pretraining_learns",
    "test_pretrain",
    "test_processes",
    "test_quantize_int8",
    "test_tensorrt_graphs",
    "test_overfit",
    "test_soak",
)
"""Files that take minutes: begun first, so that no core waits for one of them at the end."""

# Derandomised: the same examples every run; a failure prints the example that reproduces it.
settings.register_profile(
    "babelrs", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("babelrs")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images; the test is skipped where it is missing."""
    folder = Path(os.environ.get("BABELRS_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real images are not here: {folder} is missing (set BABELRS_SHARED_DATA)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long; skip what needs a device or library this machine lacks, with the reason."""
    items.sort(key=lambda item: LONGEST_FIRST.index(name) if (name := item.path.stem) in LONGEST_FIRST else 99)
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        _skip(items, "gpu", "no CUDA device")


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
