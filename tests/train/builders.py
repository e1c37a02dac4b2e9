"""Small models and small data sets, made from a seed; nothing here relies on a default setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from babelrs.boxes import to_corners
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from train.checkpoint import Checkpoint, save_checkpoint
from train.config import BackboneConfig, ModelConfig
from train.models.detector import Detector

CLASSES: dict[Sensor, tuple[str, ...]] = {
    Sensor.RGB: ("large-vehicle", "ship"),
    Sensor.SAR: ("vehicle",),
    Sensor.IR: ("Bicycle", "Car", "Person"),
}
TEXT_FOLDERS = {
    (Sensor.RGB, "train"): ("DOTA_800pix/train/images", "DOTA_800pix/train/annfiles"),
    (Sensor.RGB, "eval"): ("DOTA_800pix/val/images", "DOTA_800pix/val/annfiles"),
    (Sensor.IR, "train"): ("DroneVehicle/dota_train/png_images", "DroneVehicle/dota_train/annfiles"),
    (Sensor.IR, "eval"): ("DroneVehicle/dota_test/png_images", "DroneVehicle/dota_test/annfiles"),
}
SAR_IMAGES = "SARDet_50K/JPEGImages"
SAR_FILES = {"train": "after_merge_train.json", "eval": "after_merge_test.json"}


def tiny_backbone(**changes: Any) -> BackboneConfig:
    """A conv_vit of width 16 and depth 3."""
    fields: dict[str, Any] = {
        "name": "conv_vit", "width": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "drop_path": 0.0,
        "stem_widths": (8, 8, 12, 16, 16), "stem_blocks": (0, 0, 1, 0, 0), "taps": (1, 3),
    }  # fmt: skip
    return BackboneConfig.model_validate({**fields, **changes})


def tiny_model(**changes: Any) -> ModelConfig:
    """A detector for inputs of 64 to 96 px; small and not square, so that swapped axes show."""
    fields: dict[str, Any] = {
        "backbone": tiny_backbone(), "strides": (8, 16, 32, 64), "pyramid_channels": 16, "head_channels": 16,
        "input_px": {"rgb": (64, 96), "sar": (96, 64), "ir": (64, 64)}, "max_detections": 24, "tile_overlap": 0.2,
        "nms_iou": 0.3,
    }  # fmt: skip
    return ModelConfig.model_validate({**fields, **changes})


def random_detector(
    config: ModelConfig, seed: int, classes: Mapping[Sensor, Sequence[str]] = CLASSES, spread: float = 0.3
) -> Detector:
    """A detector with every weight and running statistic disturbed: scores, boxes and directions all vary."""
    torch.manual_seed(seed)
    detector = Detector(config, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.mul_((0.3 * noise).exp())
            else:
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
                gain = 6.0 if "classify" in name or "regress" in name else 1.0  # candidates unlike each other
                tensor.add_(gain * spread * noise * (3.0 / fan_in**0.5 if tensor.ndim > 1 else 1.0))
    return detector.eval()


def random_pixels(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Smooth random images: blobs of many sizes, uint8."""
    rng = np.random.default_rng(seed)
    batch, height, width, channels = shape
    images = []
    for _ in range(batch):
        coarse = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), channels)).astype(np.float32)
        fine = rng.normal(0, 20, (height, width, channels))
        grown = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
        images.append(np.clip(grown + fine, 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(images))


def save_tiny(folder: Path, detector: Detector, **changes: Any) -> Checkpoint:
    """Write ``detector`` as a checkpoint and return its record."""
    profiles = {sensor: DEFAULT_PROFILES[sensor] for sensor in detector.classes}
    fields: dict[str, Any] = {"profiles": profiles, "training": {"seed": 3, "step": 7}, "metrics": {"h_map": 0.5}}
    checkpoint = Checkpoint(detector.config, detector.classes, **{**fields, **changes})
    save_checkpoint(folder, detector.state_dict(), checkpoint)
    return checkpoint


def dota_line(box: Sequence[float], name: str, difficult: int | None = 0) -> str:
    """One line of a DOTA annotation file from a ``(5,)`` box."""
    numbers = " ".join(f"{value:.4f}" for value in to_corners(np.array([box], np.float32)).reshape(-1))
    return f"{numbers} {name}" if difficult is None else f"{numbers} {name} {difficult}"


def write_text_image(
    root: Path,
    sensor: Sensor,
    split: str,
    stem: str,
    lines: Sequence[str],
    size: tuple[int, int] = (40, 50),
    suffix: str = ".png",
) -> tuple[Path, Path]:
    """An RGB or infrared image of ``size`` (rows, columns) with its annotation; returns both paths."""
    images, annotations = (root / part for part in TEXT_FOLDERS[sensor, split])
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    image, text = images / f"{stem}{suffix}", annotations / f"{stem}.txt"
    cv2.imwrite(str(image), noise(size, sensor, hash_of(stem)))
    text.write_text("\n".join(lines) + "\n")
    return image, text


def write_sar(root: Path, split: str, content: Mapping[str, Any], size: tuple[int, int] = (40, 50)) -> Path:
    """A COCO file, and the images that it names where they do not exist; returns the file."""
    folder, file = root / SAR_IMAGES, root / "SARDet_50K/Annotations" / SAR_FILES[split]
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        cv2.imwrite(str(folder / image["file_name"]), noise(size, Sensor.SAR, hash_of(image["file_name"])))
    file.write_text(json.dumps(content))
    return file


def coco(boxes_by_image: Mapping[str, Sequence[Sequence[float]]], name: str = "vehicle") -> dict[str, Any]:
    """COCO content of one category from ``x, y, w, h`` boxes by file name."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (file_name, boxes) in enumerate(boxes_by_image.items(), start=100):
        images.append({"id": number, "file_name": file_name, "width": 50, "height": 40})
        for box in boxes:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 9, "bbox": list(box)})
    return {"images": images, "annotations": annotations, "categories": [{"id": 9, "name": name}]}


def write_all_sensors(root: Path, split: str, count: int = 2, size: tuple[int, int] = (72, 80)) -> None:
    """A data set of ``count`` images of each sensor, each with one object in the middle."""
    box = [size[1] / 2, size[0] / 2, 24.0, 12.0, 0.4]
    for index in range(count):
        write_text_image(root, Sensor.RGB, split, f"r{index}", [dota_line(box, "ship")], size)
        write_text_image(root, Sensor.IR, split, f"i{index}", [dota_line(box, "Car")], size)
    boxes = {f"s{split}{index}.png": [[28.0, 30.0, 24.0, 12.0]] for index in range(count)}
    write_sar(root, split, coco(boxes), size)


def noise(size: tuple[int, int], sensor: Sensor, seed: int) -> npt.NDArray[np.uint8]:
    """A noise image as OpenCV writes it."""
    shape = (*size, 3) if sensor is Sensor.RGB else size
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hash_of(name: str) -> int:
    """A seed from a name, the same in every process."""
    return int.from_bytes(name.encode()[-6:], "big")
