"""Batches that mix the sensors in a fixed ratio, drawn without replacement within each sensor's epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from babelrs.errors import BabelRSError
from babelrs.images import read_frame
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.sensors import Sensor
from train.assigner import Targets
from train.config import AugmentConfig, BatchConfig, DataConfig
from train.data.augment import Crop, augment
from train.data.mosaic import draw_windows, join
from train.data.samples import Sample
from train.processes import num_processes, rank


@dataclass(frozen=True)
class Draw:
    """One training image to make: which sample, the seed of its augmentation, and whether it is part of a mosaic."""

    sensor: Sensor
    index: int
    seed: tuple[int, ...]
    mosaic: bool = False


@dataclass(frozen=True)
class Batch:
    """A training batch.

    Attributes:
        pixels: Per sensor ``(n, crop, crop, C)`` uint8.
        targets: Per sensor n targets.
        names: Per sensor the names of the n images.
    """

    pixels: dict[Sensor, torch.Tensor]
    targets: dict[Sensor, list[Targets]]
    names: dict[Sensor, list[str]]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        pixels = {sensor: images.to(device, non_blocking=True) for sensor, images in self.pixels.items()}
        moved = {
            sensor: [Targets(t.boxes.to(device), t.labels.to(device), t.ignore_boxes.to(device)) for t in targets]
            for sensor, targets in self.targets.items()
        }
        return Batch(pixels, moved, self.names)


class RatioSampler(Sampler[list[Draw]]):
    """Endless-looking batches with a fixed number of images per sensor; a pure function of seed and step.

    Args:
        sizes: Number of samples of each sensor.
        counts: Images of each sensor in a batch.
        steps: Number of batches.
        seed: Seed of order and augmentation.
        first_step: Step to begin with.
        share: Which part of every batch to give: ``(k, n)`` for the k-th of n equal parts.
        mosaic: Share of mosaics, and the step from which there are none.

    Raises:
        BabelRSError: A sensor's images cannot be shared out evenly.
    """

    def __init__(
        self,
        sizes: Mapping[Sensor, int],
        counts: Mapping[Sensor, int],
        steps: int,
        seed: int,
        first_step: int = 0,
        share: tuple[int, int] = (0, 1),
        mosaic: tuple[float, int] = (0.0, 0),
    ) -> None:
        self.sizes, self.counts = dict(sizes), dict(counts)
        self.steps, self.seed, self.first_step, self.share = steps, seed, first_step, share
        self.mosaic = mosaic
        if uneven := {sensor.value: count for sensor, count in counts.items() if count % share[1]}:
            raise BabelRSError(
                f"A batch of {uneven} images cannot be shared evenly by {share[1]} processes.",
                "Set batch.* to multiples of the number of processes.",
            )

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first_step, self.steps):
            yield [
                self._draw(sensor, self._index(sensor, step * count + place), (self.seed, step, order, place))
                for order, (sensor, count) in enumerate(self.counts.items())
                for place in self._places(count)
            ]

    def _draw(self, sensor: Sensor, index: int, seed: tuple[int, ...]) -> Draw:
        share, until = self.mosaic
        chosen = seed[1] < until and np.random.default_rng([*seed, 11]).random() < share
        return Draw(sensor, index, seed, bool(chosen))

    def _places(self, count: int) -> range:
        part, parts = self.share
        return range(count // parts * part, count // parts * (part + 1))

    def _index(self, sensor: Sensor, position: int) -> int:
        epoch, place = divmod(position, self.sizes[sensor])
        return int(_permutation(self.sizes[sensor], self.seed, list(Sensor).index(sensor), epoch)[place])


@lru_cache(maxsize=32)
def _permutation(size: int, seed: int, sensor: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, sensor, epoch, 7]).permutation(size)


@dataclass(frozen=True)
class Item:
    """One training crop: uint8 ``(crop, crop, C)``, its objects, and the image's name."""

    sensor: Sensor
    pixels: torch.Tensor
    targets: Targets
    name: str


class CropDataset(Dataset[Item]):
    """Augmented crops of labelled images.

    Args:
        samples: By sensor.
        classes: Class names by sensor.
        profiles: Radiometry by sensor.
        config: Augmentation.
        cache: Keep decoded uint8 images in memory.
    """

    def __init__(
        self,
        samples: Mapping[Sensor, Sequence[Sample]],
        classes: Mapping[Sensor, Sequence[str]],
        profiles: Mapping[Sensor, RadiometryProfile],
        config: AugmentConfig,
        cache: bool,
    ) -> None:
        self.samples, self.profiles, self.config, self.cache = samples, profiles, config, cache
        self.labels = {
            sensor: [
                np.array([list(classes[sensor]).index(name) for name in sample.names], np.int64) for sample in group
            ]
            for sensor, group in samples.items()
        }
        self._decoded: dict[tuple[Sensor, int], npt.NDArray[np.uint8]] = {}

    def __getitem__(self, draw: Draw) -> Item:
        rng = np.random.default_rng(draw.seed)
        if draw.mosaic:
            windows = draw_windows(self.config.crop_px, rng)
            indices = [draw.index, *rng.integers(len(self.samples[draw.sensor]), size=3).tolist()]
            parts = [self._crop(draw.sensor, i, rng, w[2:]) for i, w in zip(indices, windows, strict=True)]
            crop, labels = join([part for part, _ in parts], windows), np.concatenate([found for _, found in parts])
        else:
            crop, labels = self._crop(draw.sensor, draw.index, rng)
        targets = Targets(torch.from_numpy(crop.boxes), torch.from_numpy(labels), torch.from_numpy(crop.ignore_boxes))
        return Item(draw.sensor, torch.from_numpy(crop.pixels), targets, self.samples[draw.sensor][draw.index].name)

    def _crop(
        self, sensor: Sensor, index: int, rng: np.random.Generator, size: tuple[int, int] | None = None
    ) -> tuple[Crop, npt.NDArray[np.int64]]:
        sample = self.samples[sensor][index]
        crop = augment(self._image(sensor, index), sample.boxes, sample.ignore, sensor, self.config, rng, size)
        return crop, self.labels[sensor][index][crop.kept]

    def _image(self, sensor: Sensor, index: int) -> npt.NDArray[np.uint8]:
        key = sensor, index
        if key in self._decoded:
            return self._decoded[key]
        image = to_uint8(read_frame(self.samples[sensor][index].path), self.profiles[sensor])
        if self.cache:
            self._decoded[key] = image
        return image


class _Guarded(Dataset[Any]):
    """Hands errors out as values: raised in a worker process, they would reach the user as a foreign traceback."""

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: Draw) -> Item | BabelRSError:
        try:
            return self.dataset[draw]
        except BabelRSError as error:
            return BabelRSError(error.what, error.remedy)  # subclasses need not survive the way between processes


def _raised(loader: Iterable[Batch | BabelRSError]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, BabelRSError):
            raise batch
        yield batch


def collate(items: Sequence[Item | BabelRSError]) -> Batch | BabelRSError:
    """Join crops to a batch, sensor by sensor; the first error instead, if there is one."""
    batch = Batch({}, {}, {})
    pixels: dict[Sensor, list[torch.Tensor]] = {}
    for item in items:
        if isinstance(item, BabelRSError):
            return item
        pixels.setdefault(item.sensor, []).append(item.pixels)
        batch.targets.setdefault(item.sensor, []).append(item.targets)
        batch.names.setdefault(item.sensor, []).append(item.name)
    batch.pixels.update({sensor: torch.stack(images) for sensor, images in pixels.items()})
    return batch


def make_loader(
    dataset: CropDataset, batch: BatchConfig, data: DataConfig, steps: int, seed: int, first_step: int = 0
) -> Iterable[Batch]:
    """This process' share of a run's batches, from ``first_step`` on.

    Raises:
        BabelRSError: The batch cannot be shared evenly, or, while iterating, an image cannot be read.
    """
    sizes = {sensor: len(group) for sensor, group in dataset.samples.items()}
    counts = {sensor: batch.count(sensor) for sensor in sizes}
    augmentation = dataset.config
    mosaic = augmentation.mosaic, round(steps * (1 - augmentation.mosaic_off_share))
    sampler = RatioSampler(sizes, counts, steps, seed, first_step, (rank(), num_processes()), mosaic)
    loader: Iterable[Batch | BabelRSError] = DataLoader(
        _Guarded(dataset),
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=data.workers,
        prefetch_factor=4 if data.workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise it draws a seed from the model's, and a resumed run would differ
    )
    return _raised(loader)
