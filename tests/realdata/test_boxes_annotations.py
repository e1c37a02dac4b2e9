from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from babelrs.boxes import from_corners, from_opencv, paired_iou, to_corners

pytestmark = pytest.mark.realdata


def _annotated_corners(folder: Path) -> npt.NDArray[np.float64]:
    """``(N, 4, 2)`` corners of every object in the DOTA text files below ``folder``."""
    lines = [line.split() for path in sorted(folder.rglob("annfiles/*.txt")) for line in path.read_text().splitlines()]
    return np.array([row[:8] for row in lines if len(row) >= 9], np.float64).reshape(-1, 4, 2)


@pytest.mark.parametrize("sensor_folder", ["DOTA_800pix", "DroneVehicle"])
def test_every_annotated_object_becomes_opencvs_rectangle(shared_data: Path, sensor_folder: str) -> None:
    corners = _annotated_corners(shared_data / "soi-mini" / sensor_folder)
    boxes = from_corners(corners)
    assert len(boxes) > 1000 and np.isfinite(boxes).all()
    rectangles = [cv2.minAreaRect(quad.astype(np.float32)) for quad in corners]
    opencv = from_opencv([[*centre, *sides, angle] for centre, sides, angle in rectangles])
    areas, opencv_areas = boxes[:, 2] * boxes[:, 3], opencv[:, 2] * opencv[:, 3]
    assert (areas <= opencv_areas * (1 + 1e-4) + 1e-2).all()
    # A skewed quadrilateral can have two smallest rectangles (5 % of the DOTA boxes): there only the area has to agree.
    same_shape = paired_iou(boxes, opencv) > 0.99
    assert same_shape.mean() > 0.9
    np.testing.assert_allclose(areas[~same_shape], opencv_areas[~same_shape], rtol=1e-5)


@pytest.mark.parametrize("sensor_folder", ["DOTA_800pix", "DroneVehicle"])
def test_true_rectangles_among_the_annotations_come_back(shared_data: Path, sensor_folder: str) -> None:
    corners = _annotated_corners(shared_data / "soi-mini" / sensor_folder)
    diagonals = corners[:, [2, 3]] - corners[:, [0, 1]]
    skew = np.abs(np.diff(np.linalg.norm(diagonals, axis=2), axis=1)[:, 0])
    bent = np.abs(corners[:, 0] + corners[:, 2] - corners[:, 1] - corners[:, 3]).max(axis=1)
    rectangles = corners[(skew < 0.05) & (bent < 0.05)]
    assert len(rectangles) > 50
    back = to_corners(from_corners(rectangles))
    distances = np.linalg.norm(back[:, :, None] - rectangles[:, None], axis=-1).min(axis=1)  # (N, 4)
    assert distances.max() < 0.2
