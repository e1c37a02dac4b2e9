"""Merges what was found in overlapping tiles, so that an object on a seam is reported once, and whole where it can be.

Three facts decide. A tile owns the detections whose centre lies in its core: of all tiles it sees them with the most
surroundings, so copies far inside a neighbour's core are dropped. A detection that reaches an edge inside the image is
cut: it is a fragment, and gives way to a tile that saw the whole object. Where no tile did, because the object is
longer than the overlap, fragments that agree about the part that both tiles see are joined to one box.

Tiles come row by row. A detection is settled as soon as no later tile can touch it, so the time is linear in the number
of tiles and what is kept waiting is a few rows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_intersection
from babelrs.detections import Detections
from babelrs.fragments import OTHER_CLASS_IOU, Cluster, settle
from babelrs.tiling import Tile

CORE_MARGIN_PX = 8.0
"""How far outside its core a tile's detection may have its centre: neighbours' copies of an object on the seam differ
by a few pixels, and without a margin both could be dropped."""
CUT_PX, CUT_SHARE = 4.0, 0.1
"""A box counts as cut where it ends this near an edge inside the image: pixels, or a share of its extent if more."""
_LEAST_TOUCH = 0.05  # of the smaller box: what overlaps less is another object

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """A tile's detections that are not settled: in pixels of the image, which are cut, and their numbers."""

    tile: Tile
    found: Detections
    cut: Bools
    ids: npt.NDArray[np.int64]


class SeamMerger:
    """Takes the detections of an image's tiles row by row and gives those of the image.

    Args:
        width: Of the image, pixels.
        height: Of the image, pixels.
        iou_threshold: Rotated IoU above which two boxes of a class are one object.
        margin_px: Largest growth of the core, pixels.
    """

    def __init__(self, width: int, height: int, iou_threshold: float, margin_px: float = CORE_MARGIN_PX) -> None:
        self._size, self._iou, self._margin = (width, height), iou_threshold, margin_px
        self._parts: list[_Part] = []
        self._links: list[tuple[int, int, bool]] = []
        self._settled: list[Detections] = []
        self._count, self._row = 0, 0
        self._none: Detections | None = None

    def add(self, tile: Tile, found: Detections) -> None:
        """Take the detections of one tile.

        Args:
            tile: Its ``y`` is never less than that of a tile before.
            found: In pixels of the tile.

        Raises:
            ValueError: A tile of an earlier row, or another class list or sensor than before.
        """
        if tile.y < self._row:
            raise ValueError(f"a tile of row {tile.y} after one of row {self._row}")
        if tile.y > self._row:
            self._settle(tile.y)
            self._row = tile.y
        if self._none is None:
            self._none = Detections.empty(found.classes, found.sensor)
        if (found.classes, found.sensor) != (self._none.classes, self._none.sensor):
            raise ValueError("tiles of different class lists or sensors cannot be merged")
        owned = _owned(tile, found.shifted(tile.x, tile.y), *self._size, self._margin)
        if len(owned):
            ids = np.arange(self._count, self._count + len(owned))
            part = _Part(tile, owned, _cut(tile, owned.boxes, *self._size), ids)
            self._count += len(owned)
            for other in self._parts:
                self._links += _links(other, part, self._iou)
            self._parts.append(part)

    def finish(self) -> Detections:
        """All detections of the image, in descending score; call it once, after the last tile.

        Raises:
            ValueError: No tile was added.
        """
        if self._none is None:
            raise ValueError("no tile to merge")
        self._settle(max(self._size[1], self._row) + 1)
        merged = Detections.concatenate([*self._settled, self._none])
        return merged.select(np.argsort(-merged.scores, kind="stable"))

    def _settle(self, top: int) -> None:
        """Settle every group of overlapping detections of which no tile reaches below row ``top``."""
        if not self._parts:
            return
        found = Detections.concatenate([part.found for part in self._parts])
        cut = np.concatenate([part.cut for part in self._parts])
        tiles = np.repeat(np.arange(len(self._parts)), [len(part.ids) for part in self._parts])
        place = {int(number): index for index, number in enumerate(np.concatenate([p.ids for p in self._parts]))}
        links = [(place[a], place[b], same) for a, b, same in self._links]
        roots = _roots(len(tiles), [(a, b) for a, b, _ in links])
        windows = np.array([_as_box(part.tile) for part in self._parts], np.float32)[tiles]
        reaches = np.array([part.tile.y + part.tile.height > top for part in self._parts])[tiles]
        waits = np.isin(roots, roots[reaches])
        alone = np.bincount(roots, minlength=len(roots))[roots] == 1
        self._settled.append(found.select(alone & ~waits))
        for members, same in _groups(roots, ~alone & ~waits, links):
            cluster = Cluster(found.select(members), cut[members], tiles[members], windows[members], same)
            self._settled.append(settle(cluster, self._iou))
        self._links = [link for link in self._links if waits[place[link[0]]]]
        self._parts = [
            _Part(part.tile, part.found.select(keep), part.cut[keep], part.ids[keep])
            for index, part in enumerate(self._parts)
            if (keep := waits[tiles == index]).any()
        ]


def merge_tiles(
    parts: Sequence[tuple[Tile, Detections]], iou_threshold: float, margin_px: float = CORE_MARGIN_PX
) -> Detections:
    """One image's detections from those of its tiles, in descending score; those of one tile alone as they are.

    Args:
        parts: Each tile of the image with its detections in pixels of the tile.
        iou_threshold: Rotated IoU above which two boxes of a class are one object.
        margin_px: Largest growth of the core, pixels.

    Raises:
        ValueError: ``parts`` is empty or mixes class lists or sensors.
    """
    if not parts:
        raise ValueError("no tile to merge")
    if len(parts) == 1:
        tile, found = parts[0]
        return found.shifted(tile.x, tile.y)
    width, height = max(tile.core[2] for tile, _ in parts), max(tile.core[3] for tile, _ in parts)
    merger = SeamMerger(width, height, iou_threshold, margin_px)
    for tile, found in sorted(parts, key=lambda part: (part[0].y, part[0].x)):
        merger.add(tile, found)
    return merger.finish()


def _owned(tile: Tile, shifted: Detections, width: int, height: int, margin_px: float) -> Detections:
    """Those with their centre in the core grown by ``margin_px``, at most half way to the tile's edge.

    At the image's border: all. Of a box that is drawn beyond the tile, the centre of the part inside it counts: the
    rest is a guess, and by their guesses both tiles might leave an object to each other.
    """
    core, seen = tile.core, (tile.x, tile.y, tile.x + tile.width, tile.y + tile.height)
    left, top, right, bottom = (min(margin_px, abs(c - s) / 2) for c, s in zip(core, seen, strict=True))
    low = np.array([core[0] - left if core[0] > 0 else -np.inf, core[1] - top if core[1] > 0 else -np.inf])
    high = np.array([core[2] + right if core[2] < width else np.inf, core[3] + bottom if core[3] < height else np.inf])
    lowest, highest = _extents(shifted.boxes)
    centres = (np.maximum(lowest, seen[:2]) + np.minimum(highest, seen[2:])) / 2
    inside = (centres >= low) & (centres < high)
    return shifted.select(inside[:, 0] & inside[:, 1])


def _extents(boxes: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Lowest and highest x, y of ``boxes`` ``(N, 5)``, each ``(N, 2)``."""
    wide = boxes.astype(np.float64)
    cosine, sine = np.abs(np.cos(wide[:, 4])), np.abs(np.sin(wide[:, 4]))
    half = np.stack([wide[:, 2] * cosine + wide[:, 3] * sine, wide[:, 2] * sine + wide[:, 3] * cosine], axis=1) / 2
    return wide[:, :2] - half, wide[:, :2] + half


def _cut(tile: Tile, boxes: npt.NDArray[np.float32], width: int, height: int) -> Bools:
    """Which boxes ``(N, 5)`` end at, or beyond, an edge of the tile that lies inside the image."""
    low, high = _extents(boxes)
    near = np.maximum(CUT_PX, CUT_SHARE * (high - low))  # (N, 2)
    start = np.array([tile.x if tile.x > 0 else -np.inf, tile.y if tile.y > 0 else -np.inf])
    right, bottom = tile.x + tile.width, tile.y + tile.height
    end = np.array([right if right < width else np.inf, bottom if bottom < height else np.inf])
    return np.asarray(((low < start + near) | (high > end - near)).any(axis=1), np.bool_)


def _links(a: _Part, b: _Part, iou_threshold: float) -> list[tuple[int, int, bool]]:
    """Pairs of the detections of two tiles that overlap, and whether they are the same object.

    They are where they agree about the part of the image that both tiles see: intersection over union inside it.
    """
    left, top = max(a.tile.x, b.tile.x), max(a.tile.y, b.tile.y)
    right = min(a.tile.x + a.tile.width, b.tile.x + b.tile.width)
    bottom = min(a.tile.y + a.tile.height, b.tile.y + b.tile.height)
    if left >= right or top >= bottom:
        return []
    rows, columns = (
        _reaching(a.found.boxes, left, top, right, bottom),
        _reaching(b.found.boxes, left, top, right, bottom),
    )
    if rows.size == 0 or columns.size == 0:
        return []
    first, second = a.found.boxes[rows], b.found.boxes[columns]
    shared = rotated_intersection(first, second)  # (N, M)
    least = np.minimum(_areas(first)[:, None], _areas(second)[None])
    touch: Bools = np.greater(shared, _LEAST_TOUCH * least)
    if not touch.any():
        return []
    common = np.array([[(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0.0]])
    agreement = _agreement(shared, rotated_intersection(first, common), rotated_intersection(second, common).T)
    alike = a.found.labels[rows][:, None] == b.found.labels[columns][None]
    agree = touch & np.greater(agreement, np.where(alike, iou_threshold, OTHER_CLASS_IOU))
    fragments = a.cut[rows][:, None] & b.cut[columns][None]
    same = agree & (_one_to_one(np.where(agree & fragments, agreement, 0.0)) | ~fragments)
    pairs = np.argwhere(touch)
    return [(int(a.ids[rows[i]]), int(b.ids[columns[j]]), bool(same[i, j])) for i, j in pairs]


def _as_box(tile: Tile) -> tuple[float, float, float, float, float]:
    return tile.x + tile.width / 2, tile.y + tile.height / 2, float(tile.width), float(tile.height), 0.0


def _reaching(boxes: npt.NDArray[np.float32], left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.int64]:
    low, high = _extents(boxes)
    return np.flatnonzero((high > [left, top]).all(axis=1) & (low < [right, bottom]).all(axis=1))


def _areas(boxes: npt.NDArray[np.float32]) -> Floats:
    return boxes[:, 2].astype(np.float64) * boxes[:, 3]


def _agreement(shared: Floats, first: Floats, second: Floats) -> Floats:
    """Intersection over union ``(N, M)`` inside a region of which the boxes cover ``(N, 1)`` and ``(1, M)`` px^2."""
    inside = np.minimum(shared, np.minimum(first, second))
    return inside / np.maximum(first + second - inside, 1e-12)


def _one_to_one(agreement: Floats) -> Bools:
    """The best pairs, each row and each column in one at most."""
    chosen, left = np.zeros(agreement.shape, np.bool_), agreement.copy()
    while left.size and left.max() > 0:
        i, j = np.unravel_index(np.argmax(left), left.shape)
        chosen[i, j] = True
        left[i, :], left[:, j] = 0.0, 0.0
    return chosen


def _roots(count: int, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """For each of ``count`` members the least member that it is connected to by ``pairs``."""
    parent = list(range(count))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(member) for member in range(count)], np.int64)


def _groups(
    roots: npt.NDArray[np.int64], picked: Bools, links: Sequence[tuple[int, int, bool]]
) -> list[tuple[npt.NDArray[np.int64], frozenset[tuple[int, int]]]]:
    """The ``picked`` members by root, in order, each group with its pairs that are the same, numbered within it."""
    groups: dict[int, list[int]] = {}
    within: dict[int, int] = {}
    for member in np.flatnonzero(picked).tolist():
        group = groups.setdefault(int(roots[member]), [])
        within[member] = len(group)
        group.append(member)
    pairs: dict[int, set[tuple[int, int]]] = {root: set() for root in groups}
    for a, b, same in links:
        if same and a in within:
            pairs[int(roots[a])].add((within[a], within[b]))
    return [(np.array(members, np.int64), frozenset(pairs[root])) for root, members in groups.items()]
