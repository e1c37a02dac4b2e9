"""What a backbone sees of every labelled object: one vector each, from images of any size."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from babelrs.errors import BabelRSError
from babelrs.images import read_frame
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.sensors import Sensor
from babelrs.tiling import Tile, cut_tile, plan_tiles
from train.alignment.sources import Subject
from train.data.read_ahead import ahead
from train.data.samples import Sample
from train.instruct.concepts import concept_of
from train.models.backbone import Backbone
from train.models.detector import normalise
from train.models.lvsa import aggregate, layer_weights

log = logging.getLogger("train.align")

LOG_EVERY = 1000


@dataclass(frozen=True)
class Objects:
    """One sensor's objects as a backbone sees them.

    Attributes:
        features: ``(N, C)`` float32, a row for each object.
        concepts: Their N concepts.
        images: ``(N,)`` which of the sensor's images each lies in.
    """

    features: npt.NDArray[np.float32]
    concepts: tuple[str, ...]
    images: npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """One sensor's images, with the objects that are looked at alone.

    Attributes:
        samples: Images with at least one such object; ``names`` are concepts.
        counts: Objects of every concept.
        ignored: Objects left out, since they are marked difficult or crowd.
        rare: Objects left out, since the sensor has too few of their concept.
    """

    samples: list[Sample]
    counts: dict[str, int]
    ignored: int = 0
    rare: dict[str, int] = field(default_factory=dict)


def label_images(
    samples: Mapping[Sensor, Sequence[Sample]], table: Mapping[str, str], min_objects: int
) -> dict[Sensor, LabelledImages]:
    """Every sensor's objects under the names of their concepts.

    Args:
        samples: By sensor.
        table: Class name to concept.
        min_objects: Concepts of which a sensor has fewer are left out there.

    Raises:
        BabelRSError: A sensor has no object, or too few of every concept.
    """
    return {sensor: _labelled(sensor, group, table, min_objects) for sensor, group in samples.items()}


def _labelled(sensor: Sensor, group: Sequence[Sample], table: Mapping[str, str], min_objects: int) -> LabelledImages:
    named = [replace(sample, names=tuple(concept_of(name, table) for name in sample.names)) for sample in group]
    counted = Counter(
        name for sample in named for name, ignored in zip(sample.names, sample.ignore, strict=True) if not ignored
    )
    if not counted:
        raise BabelRSError(
            f"{sensor}: no object in {len(group)} images that is not to be ignored.",
            "Give a split with objects of every sensor, or leave the sensor out of sensors.",
        )
    kept = {concept: count for concept, count in sorted(counted.items()) if count >= min_objects}
    rare = {concept: count for concept, count in sorted(counted.items()) if count < min_objects}
    if not kept:
        most = ", ".join(f"{concept} {count}" for concept, count in rare.items())
        raise BabelRSError(
            f"{sensor}: no concept has min_objects {min_objects} objects; there are {most}.",
            "Give more images, or lower min_objects.",
        )
    images = [_of_concepts(sample, kept) for sample in named]
    ignored = sum(int(sample.ignore.sum()) for sample in group)
    return LabelledImages([sample for sample in images if sample.names], kept, ignored, rare)


def _of_concepts(sample: Sample, concepts: Mapping[str, int]) -> Sample:
    kept = [row for row, name in enumerate(sample.names) if name in concepts and not sample.ignore[row]]
    return replace(
        sample, boxes=sample.boxes[kept], names=tuple(sample.names[row] for row in kept), ignore=sample.ignore[kept]
    )


def tokens_in_boxes(boxes: npt.NDArray[np.float32], grid: tuple[int, int], stride: int) -> npt.NDArray[np.bool_]:
    """Which tokens belong to which box: those whose centre lies in it, and the one in which its own centre lies.

    Args:
        boxes: ``(M, 5)`` in pixels of the tile; centres within it.
        grid: ``(H, W)`` of the tokens.
        stride: Side of a token, pixels.

    Returns:
        ``(M, H * W)``; at least one token in every row.
    """
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    centres = (np.stack([columns, rows], 1) + 0.5) * stride  # (H * W, 2) x, y
    wide = boxes.astype(np.float64)
    apart = centres[None] - wide[:, None, :2]  # (M, H * W, 2)
    cosine, sine = np.cos(wide[:, 4:]), np.sin(wide[:, 4:])
    along = apart[..., 0] * cosine + apart[..., 1] * sine
    across = apart[..., 1] * cosine - apart[..., 0] * sine
    inside: npt.NDArray[np.bool_] = (np.abs(along) <= wide[:, 2:3] / 2) & (np.abs(across) <= wide[:, 3:4] / 2)
    own = np.minimum((wide[:, 1::-1] // stride).astype(int), np.array(grid) - 1)  # (M, 2) row, column
    inside[np.arange(len(boxes)), own[:, 0] * grid[1] + own[:, 1]] = True
    return inside


def object_features(
    subject: Subject,
    images: Mapping[Sensor, LabelledImages],
    device: torch.device,
    batch_size: int,
) -> dict[Sensor, Objects]:
    """A vector for every object: the mean over its tokens of the mean over the backbone's taps.

    Images pass the steps that detection takes: the sensor's radiometry, tiles of its input size that overlap, zeros
    beyond the image, normalisation. An object is seen in the tile that owns its centre, so in one. The taps are
    averaged with equal weights, as they are, which is what LVSA ends with (BabelRS, arXiv 2603.01758); no norm, no
    pyramid and no projector comes after. Which tokens are an object's is said by :func:`tokens_in_boxes`; tokens
    beyond the image's edge are nobody's.

    Args:
        subject: Whose backbone it is.
        images: By sensor.
        device: Where to run.
        batch_size: Tiles at a time.

    Raises:
        BabelRSError: An image cannot be read, or its features are not finite.
    """
    subject.detector.to(device)
    found = {}
    for sensor, labelled in images.items():
        read = ahead(_Reader(subject, sensor), enumerate(labelled.samples))
        tiles = (tile for image in read for tile in image)
        found[sensor] = _joined(list(_seen(subject.detector.backbone, tiles, device, batch_size, sensor)), sensor)
        log.info("%s: %d objects in %d images", sensor, len(found[sensor].concepts), len(labelled.samples))
    return found


def _joined(parts: Sequence[Objects], sensor: Sensor) -> Objects:
    if not parts:
        raise BabelRSError(
            f"{sensor}: the centres of all objects lie outside their images.", "Correct the annotations."
        )
    return Objects(
        np.concatenate([part.features for part in parts]),
        tuple(name for part in parts for name in part.concepts),
        np.concatenate([part.images for part in parts]),
    )


@dataclass(frozen=True)
class _ObjectTile:
    """A tile of the ``number``-th image with the objects whose centres it owns.

    ``pixels`` are uint8 ``(H, W, C)``, ``boxes`` ``(M, 5)`` in its own pixels; the image fills ``width`` x ``height``.
    """

    number: int
    path: Path
    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    concepts: tuple[str, ...]
    width: int
    height: int


class _Reader:
    """Cuts an image into the tiles that own an object."""

    def __init__(self, subject: Subject, sensor: Sensor) -> None:
        config = subject.detector.config
        self.profile: RadiometryProfile = subject.profiles[sensor]
        self.size, self.overlap = config.input_px.of(sensor), config.tile_overlap

    def __call__(self, numbered: tuple[int, Sample]) -> list[_ObjectTile]:
        number, sample = numbered
        image = to_uint8(read_frame(sample.path), self.profile)
        tiles = plan_tiles(image.shape[1], image.shape[0], self.size[1], self.size[0], self.overlap)
        return [made for tile in tiles if (made := self._owned(number, sample, image, tile)) is not None]

    def _owned(self, number: int, sample: Sample, image: npt.NDArray[np.uint8], tile: Tile) -> _ObjectTile | None:
        x, y = sample.boxes[:, 0], sample.boxes[:, 1]
        left, top, right, bottom = tile.core
        rows = np.flatnonzero((left <= x) & (x < right) & (top <= y) & (y < bottom))
        if not len(rows):
            return None
        pixels = cut_tile(image, tile, self.size[1], self.size[0])
        boxes = sample.boxes[rows] - np.array([tile.x, tile.y, 0, 0, 0], np.float32)
        names = tuple(sample.names[row] for row in rows)
        return _ObjectTile(number, sample.path, pixels, boxes, names, tile.width, tile.height)


def _seen(
    backbone: Backbone, tiles: Iterable[_ObjectTile], device: torch.device, batch_size: int, sensor: Sensor
) -> Iterator[Objects]:
    """Each tile's objects."""
    batch: list[_ObjectTile] = []
    for number, tile in enumerate(tiles, start=1):
        batch.append(tile)
        if len(batch) == batch_size:
            yield from _features_of(backbone, batch, device)
            batch = []
        if number % LOG_EVERY == 0:
            log.info("%s: %d tiles", sensor, number)
    if batch:
        yield from _features_of(backbone, batch, device)


def _features_of(backbone: Backbone, batch: Sequence[_ObjectTile], device: torch.device) -> Iterator[Objects]:
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([tile.pixels for tile in batch])).to(device)
        seen = backbone(normalise(pixels))
        tokens = mean_tap(seen.taps, backbone.prefix_tokens)  # (B, H * W, C)
        for tile, own in zip(batch, tokens, strict=True):
            mask = tokens_in_boxes(tile.boxes, seen.grid, backbone.stride) & _within(tile, seen.grid, backbone.stride)
            features = _masked_means(own, torch.from_numpy(mask).to(device))
            if not torch.isfinite(features).all():
                raise BabelRSError(
                    f"{tile.path}: the backbone's features hold NaN or infinity.",
                    "The weights are damaged or training diverged: take an earlier checkpoint.",
                )
            yield Objects(features.cpu().numpy(), tile.concepts, np.full(len(tile.concepts), tile.number))


def mean_tap(taps: Sequence[Tensor], prefix_tokens: int) -> Tensor:
    """The taps' mean, where LVSA ends: S maps ``(B, prefix + T, C)`` to ``(B, T, C)``, class token dropped."""
    return aggregate([tap[:, prefix_tokens:] for tap in taps], layer_weights(0, 0, len(taps)))


def _within(tile: _ObjectTile, grid: tuple[int, int], stride: int) -> npt.NDArray[np.bool_]:
    """``(H * W,)``: tokens that begin inside the image."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return (columns * stride < tile.width) & (rows * stride < tile.height)


def _masked_means(tokens: Tensor, mask: Tensor) -> Tensor:
    """Means ``(M, C)`` over the tokens ``(T, C)`` that each row of ``(M, T)`` marks."""
    weights = mask.to(tokens.dtype)
    return (weights @ tokens) / weights.sum(1, keepdim=True)
