"""The images that INT8 ranges come from: chosen per sensor, checked, and named in the bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from babelrs.bundle import sha256_of
from babelrs.errors import collected
from babelrs.images import read_frame
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.sensors import Sensor
from babelrs.tiling import cut_tile, plan_tiles
from train.data.samples import Sample
from train.data.soi_det import Split, read_split

log = logging.getLogger("compress.calibration")

FEW = 32
"""Fewer calibration images than this are warned of."""

Pixels = npt.NDArray[np.uint8]


class CalibrationConfig(BaseModel):
    """Which images set the ranges of activations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path | None = Field(None, description="folder in the SOI-Det layout (none: data.root)")
    split: Split = Field("train", description="split to draw from; never the one that is measured on")
    images_per_sensor: int = Field(512, ge=1, description="images drawn of each sensor; 500 and more are advised")
    seed: int = Field(0, ge=0, description="seed of the draw")


@dataclass(frozen=True)
class CalibrationImage:
    """One image as the model sees it.

    Attributes:
        name: File name.
        sha256: Of the file, hexadecimal.
        pixels: One tile of it, ``(H, W, C)`` uint8 of the model's input size.
    """

    name: str
    sha256: str
    pixels: Pixels


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration images by sensor, and the record of them that goes into the bundle."""

    images: Mapping[Sensor, tuple[CalibrationImage, ...]]

    def batches(self, sensor: Sensor, size: int, count: int | None = None) -> Iterator[tuple[list[str], Pixels]]:
        """Names and pixels ``(N, H, W, C)`` of ``size`` images at a time, of the first ``count`` or of all."""
        chosen = self.images[sensor][:count]
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield [image.name for image in part], np.stack([image.pixels for image in part])

    def to_dict(self) -> dict[str, Any]:
        """Names and hashes by sensor, for the manifest."""
        return {
            sensor.value: [{"file": image.name, "sha256": image.sha256} for image in images]
            for sensor, images in self.images.items()
        }


def as_seen_by(pixels: Pixels, channels: int, size_px: tuple[int, int] | None = None) -> Pixels:
    """One sensor's images as the input of another sensor's head.

    Args:
        pixels: ``(N, H, W, C)``.
        channels: Of the input: three bands become their mean, one is used three times.
        size_px: ``(height, width)`` of the input, where it takes no other: images are cut, or black is added to the
            right and below. ``None``: any.

    Returns:
        ``(N, height, width, channels)``.
    """
    if pixels.shape[-1] > channels:
        pixels = np.rint(pixels.mean(-1, keepdims=True)).astype(np.uint8)
    pixels = np.repeat(pixels, channels // pixels.shape[-1], axis=-1)
    if size_px is None or pixels.shape[1:3] == size_px:
        return pixels
    height, width = size_px
    part = pixels[:, :height, :width]
    missing = ((0, 0), (0, height - part.shape[1]), (0, width - part.shape[2]), (0, 0))
    return np.pad(part, missing)


def choose_samples(samples: Sequence[Sample], count: int, seed: int, sensor: Sensor) -> list[Sample]:
    """``count`` samples, or all there are, drawn without replacement; in the order of the draw."""
    order = np.random.default_rng([seed, list(Sensor).index(sensor)]).permutation(len(samples))
    return [samples[index] for index in order[:count]]


def read_calibration(
    config: CalibrationConfig,
    root: Path,
    profiles: Mapping[Sensor, RadiometryProfile],
    input_px: Mapping[Sensor, tuple[int, int]],
    measured: Mapping[Sensor, Sequence[Sample]],
) -> CalibrationSet:
    """Draw, read and check the calibration images of every sensor.

    Args:
        config: Which.
        root: Data folder where the settings name none.
        profiles: Radiometry of every sensor to calibrate.
        input_px: ``(height, width)`` of each one's input.
        measured: Samples that accuracy is measured on: none may be among the calibration images.

    Raises:
        BabelRSError: A sensor has no usable image, images are also measured on, or an annotation is wrong; all faults
            are listed.
    """
    available = read_split(config.root or root, list(profiles), config.split)
    images, faults = {}, []
    for sensor, profile in profiles.items():
        rng = np.random.default_rng([config.seed, list(Sensor).index(sensor), 1])
        drawn = choose_samples(available.get(sensor, []), config.images_per_sensor, config.seed, sensor)
        read = [(sample, to_uint8(read_frame(sample.path), profile)) for sample in drawn]
        usable = [(sample, image) for sample, image in read if image.size and image.min() != image.max()]
        flat = [sample.path.name for sample, image in read if not image.size or image.min() == image.max()]
        if flat:
            log.warning("%s: left out %d images of one single value: %s", sensor, len(flat), ", ".join(flat[:5]))
        if not usable:
            faults.append(f"{sensor}: {_why_none(drawn, config, config.root or root)}")
        images[sensor] = tuple(_as_seen(sample, image, input_px[sensor], rng) for sample, image in usable)
    faults += _measured_too(images, measured)
    if faults:
        raise collected(
            "The calibration images cannot be used",
            faults,
            "INT8 ranges are never guessed: give images of each sensor.",
        )
    for sensor, chosen in images.items():
        if len(chosen) < FEW:
            log.warning("%s: only %d calibration images; ranges from under %d are poor", sensor, len(chosen), FEW)
    return CalibrationSet(images)


def _why_none(drawn: Sequence[Sample], config: CalibrationConfig, root: Path) -> str:
    if not drawn:
        return f"the {config.split} split of {root} has no image"
    return f"all {len(drawn)} images drawn are of one single value"


def _as_seen(sample: Sample, image: Pixels, input_px: tuple[int, int], rng: np.random.Generator) -> CalibrationImage:
    """One tile of the image, any of those it is cut into on board."""
    height, width = input_px
    tiles = plan_tiles(image.shape[1], image.shape[0], width, height, 0.0)
    tile = tiles[int(rng.integers(len(tiles)))]
    return CalibrationImage(sample.path.name, sha256_of(sample.path), cut_tile(image, tile, width, height))


def _measured_too(
    images: Mapping[Sensor, Sequence[CalibrationImage]], measured: Mapping[Sensor, Sequence[Sample]]
) -> list[str]:
    """Images that are also measured on, by content: a copy under another name is found too."""
    faults = []
    for sensor, samples in measured.items():
        known = {sha256_of(sample.path): sample.path for sample in samples}
        faults += [
            f"{sensor}: {image.name} is measured on too, as {known[image.sha256]}"
            for image in images.get(sensor, ())
            if image.sha256 in known
        ]
    return faults
