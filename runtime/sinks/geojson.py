"""GeoJSON (RFC 7946): every detection a feature, in longitude and latitude."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from runtime.geo import Floats, Places
from runtime.pipeline import FrameResult
from runtime.sinks.appending import AppendedFile
from runtime.sinks.resumable import Mark

DECIMALS = 7
"""Of degrees: about a centimetre."""
_HEAD, _TAIL = b'{"type": "FeatureCollection", "features": [', b"\n]}\n"
_LOGGER = logging.getLogger(__name__)

Position = list[float]


class GeoJsonSink:
    """Writes ``detections.SENSOR.geojson``, a feature collection in WGS 84 that is valid after every image.

    Images that do not say where they lie on Earth cannot be in it: the first is named in a warning and their number in
    another at the end. A detection without a place (outside the image's projection, or at a pole) is a feature without
    geometry.

    Args:
        path: The file; an older one is replaced.
        mark: Where an earlier run's file goes on; ``None``: it begins anew.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        self._path, before = path, mark or {}
        self._num_images, self._num_placeless = before.get("images", 0), before.get("placeless", 0)
        self._file = AppendedFile(path, _HEAD, _TAIL, before.get("end"))

    def write(self, result: FrameResult) -> None:
        """Add one image's detections."""
        self._num_images += 1
        if result.places is None:
            self._num_placeless += 1
            if self._num_placeless == 1:
                _LOGGER.warning("%s: no place on Earth is known, so it is not in %s", result.source, self._path.name)
            return
        features = [json.dumps(feature, ensure_ascii=False, allow_nan=False) for feature in result_features(result)]
        if features:
            joined = ",\n".join(features)
            self._file.append(f"{'' if self._file.end == len(_HEAD) else ','}\n{joined}".encode())

    def mark(self) -> Mark:
        """Where the file ends, and what of the images is not in it."""
        return {"end": self._file.end, "images": self._num_images, "placeless": self._num_placeless}

    def sync(self) -> None:
        """Bring the file to the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Close the file and say how many images are not in it."""
        self._file.close()
        if self._num_placeless:
            what = "%d of %d images are not in %s: they do not say where they lie on Earth"
            _LOGGER.warning(what, self._num_placeless, self._num_images, self._path)


def result_features(result: FrameResult) -> list[dict[str, Any]]:
    """One image's detections as GeoJSON features; it must have places."""
    assert result.places is not None
    found, places = result.detections, result.places
    return [
        {
            "type": "Feature",
            "geometry": geometry(places.lonlat[index]),
            "properties": {
                "label": found.classes[found.labels[index]],
                "score": round(float(found.scores[index]), 6),
                "sensor": result.sensor.value,
                "source": result.source,
                "frame": result.frame,
                "time": result.time,
                "obb": [*(round(side, 3) for side in box[:4]), round(box[4], 6)],
                **ground_record(places, index),
            },
        }
        for index, box in enumerate(found.boxes.tolist())
    ]


def ground_record(places: Places, index: int) -> dict[str, float | None]:
    """Size and heading of one detection, to a centimetre and a hundredth of a degree; ``None`` where it has none."""
    if not places.known[index]:
        return {"length_m": None, "width_m": None, "heading_deg": None}
    return {
        "length_m": round(float(places.length_m[index]), 2),
        "width_m": round(float(places.width_m[index]), 2),
        "heading_deg": round(float(places.heading_deg[index]), 2) % 180.0,
    }


def geometry(corners: Floats) -> dict[str, Any] | None:
    """A Polygon of ``(4, 2)`` longitudes and latitudes; two, a MultiPolygon, where it crosses the antimeridian.

    Rings go counter-clockwise and end where they begin (RFC 7946, 3.1.6 and 3.1.9). ``None`` for corners without a
    place.
    """
    if not np.isfinite(corners).all():
        return None
    if np.ptp(corners[:, 0]) <= 180:
        return {"type": "Polygon", "coordinates": [_ring(corners)]}
    unrolled = corners.copy()
    unrolled[unrolled[:, 0] < 0, 0] += 360  # both sides around 180
    before, beyond = _clip(unrolled, 1.0), _clip(unrolled, -1.0) - np.array([360.0, 0.0])
    rings = [[_ring(part)] for part in (before, beyond) if len(part) > 2 and np.ptp(part[:, 0]) > 0]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _ring(points: Floats) -> list[Position]:
    corners = points.tolist()
    (left, low), twice_area = corners[0], 0.0
    for (x, y), (next_x, next_y) in zip(corners, [*corners[1:], corners[0]], strict=True):
        twice_area += (x - left) * (next_y - low) - (next_x - left) * (y - low)
    ordered = corners if twice_area >= 0 else corners[::-1]
    ring = [[round(longitude, DECIMALS), round(latitude, DECIMALS)] for longitude, latitude in ordered]
    return [*ring, ring[0]]


def _clip(points: Floats, side: float) -> Floats:
    """The part of a convex ring ``(N, 2)`` at longitudes up to 180 (``side`` 1) or from 180 on (-1)."""
    kept: list[Floats] = []
    inside = side * (180.0 - points[:, 0])
    for index, (point, depth) in enumerate(zip(points, inside, strict=True)):
        previous, last = points[index - 1], inside[index - 1]
        if (depth > 0) != (last > 0) and depth != last:
            crossing = previous + (point - previous) * (last / (last - depth))
            kept.append(np.array([180.0, crossing[1]]))
        if depth > 0:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)
