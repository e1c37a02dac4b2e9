from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.launching import losses, metrics, train
from tests.train.builders import tiny_model, write_all_sensors

STEPS = 20


def arguments(folder: Path, out: str, **changes: Any) -> list[str]:
    """A run of 20 steps that logs each of them."""
    content = {
        "out": str(folder / out),
        "steps": STEPS,
        "seed": 3,
        "log_every": 1,
        "save_every": 1000,
        "data": {"root": str(folder / "data"), "workers": 0},
        "model": json.loads(tiny_model().model_dump_json()),
        "batch": {"rgb": 2, "sar": 4, "ir": 2},
        "augment": {"crop_px": 128, "scale_min": 0.9, "scale_max": 1.1},
        "optimizer": {"lr": 5e-4, "warmup_steps": 4},
        "watch": {"trackers": []},
        **changes,
    }
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(content))
    return ["--config", str(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_all_sensors(folder / "data", "train", count=4)
    done = train(arguments(folder, "one"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(folder: Path, parallel: str) -> None:
    done = train(arguments(folder, parallel, parallel=parallel), processes=2)
    assert done.returncode == 0, done.stderr
    one, two = losses(folder / "one"), losses(folder / parallel)
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([two[step] for step in one], list(one.values()), rtol=0, atol=1e-4)
    assert one[1] != one[STEPS], "a constant loss would agree as well"
    norms = [[line["gradient_norm"] for line in metrics(folder / name)] for name in ("one", parallel)]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-3)


def test_a_batch_that_processes_cannot_share_is_refused(folder: Path) -> None:
    done = train(arguments(folder, "uneven", batch={"rgb": 3, "sar": 4, "ir": 2}), processes=2)
    assert done.returncode != 0
    assert "{'rgb': 3}" in done.stderr and "multiples of the number of processes" in done.stderr
