from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from babelrs.sensors import Sensor
from train.data.samples import class_list
from train.data.soi_det import Split, read_split

pytestmark = pytest.mark.realdata


def table(shared_data: Path) -> dict[Sensor, tuple[dict[Split, int], dict[str, dict[Split, int]]]]:
    """Images and objects per class as the data's own description lists them."""
    found: dict[Sensor, tuple[dict[Split, int], dict[str, dict[Split, int]]]] = {}
    for line in (shared_data / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) < 6 or cells[0] not in ("IR", "SAR", "RGB"):
            continue
        images: dict[Split, int] = {"train": int(cells[2]), "eval": int(cells[3])}
        pairs = re.findall(r"([A-Za-z-]+) (\d+)/(\d+)", cells[4])
        objects: dict[str, dict[Split, int]] = {name: {"train": int(a), "eval": int(b)} for name, a, b in pairs}
        found[Sensor.parse(cells[0])] = images, objects
    return found


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("sensor", list(Sensor))
def test_readers_count_the_images_and_objects_that_the_data_description_lists(
    shared_data: Path, sensor: Sensor, split: Split
) -> None:
    images, objects = table(shared_data)[sensor]
    samples = read_split(shared_data / "soi-mini", [sensor], split)[sensor]
    assert len(samples) == images[split]
    assert Counter(name for sample in samples for name in sample.names) == {n: c[split] for n, c in objects.items()}
    assert class_list(samples) == tuple(sorted(objects))
    assert all(sample.path.is_file() for sample in samples) and len({s.name for s in samples}) == len(samples)


@pytest.mark.parametrize("sensor", list(Sensor))
def test_real_boxes_are_le90_and_sar_boxes_are_horizontal(shared_data: Path, sensor: Sensor) -> None:
    samples = read_split(shared_data / "soi-mini", [sensor], "train")[sensor]
    boxes = np.concatenate([sample.boxes for sample in samples])
    assert np.isfinite(boxes).all() and (boxes[:, 2] >= boxes[:, 3]).all() and (boxes[:, 3] > 0).all()
    quarter = np.float32(np.pi / 2)
    assert (boxes[:, 4] >= -quarter).all() and (boxes[:, 4] < quarter).all()
    if sensor is Sensor.SAR:
        assert np.isin(boxes[:, 4], np.array([0, -quarter], np.float32)).all()
    else:
        assert len(np.unique(boxes[:, 4].round(2))) > 50


def test_splits_are_disjoint(shared_data: Path) -> None:
    root = shared_data / "soi-mini"
    train, held_out = (read_split(root, list(Sensor), split) for split in ("train", "eval"))  # type: ignore[arg-type]
    for sensor in Sensor:
        assert not {s.path.name for s in train[sensor]} & {s.path.name for s in held_out[sensor]}
