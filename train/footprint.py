"""What a configuration costs, predicted without training: parameters, FLOPs per sensor, memory of a training step.

``python -m train.finetune --dry-run`` prints it for one configuration, ``python -m train.footprint FILE.yaml...`` for
several. The model is built from tensors without data, so that the largest configuration takes seconds and no memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from train.activations import saved_tensors, without_data
from train.cli import load_config
from train.config import FinetuneConfig
from train.data.samples import class_list, limited
from train.data.soi_det import read_split
from train.markdown import markdown_table
from train.models.backbone import ConvViT
from train.models.detector import Detector, SensorDetector

PLACEHOLDER_CLASSES = {Sensor.RGB: 15, Sensor.SAR: 6, Sensor.IR: 5}
"""SOI-Det's, for a configuration whose data are not here."""

FLOAT_BYTES = 4
NUM_PROCESSES = (1, 2, 4, 8)

Classes = Mapping[Sensor, tuple[str, ...]]


@dataclass(frozen=True)
class Activations:
    """What the backward pass needs kept, in bytes.

    Attributes:
        per_image: For every image of the batch; the mean over the sensors.
        fixed: Whatever the batch: the weights' copies in the run's precision.
    """

    per_image: int
    fixed: int


@dataclass(frozen=True)
class Footprint:
    """Predicted cost of a configuration.

    Attributes:
        parameters: By part of the model.
        trainable: Parameters with a gradient.
        buffer_bytes: Running statistics.
        largest_block: Parameters of the largest transformer block.
        num_blocks: Transformer blocks.
        flops: Forward FLOPs of one image by sensor at its input size; a multiply-add counts twice.
        input_px: ``(height, width)`` by sensor.
        plain: Activations of a training step.
        checkpointed: The same with activation checkpointing, without the block that is being recomputed.
        checkpointing: Whether the configuration uses it.
        crop_px: Side of a training image.
        precision: Of the training step.
        images: Images of a global batch.
        classes: Number of classes by sensor.
        placeholder: Whether these are SOI-Det's, as the data are not here.
    """

    parameters: dict[str, int]
    trainable: int
    buffer_bytes: int
    largest_block: int
    num_blocks: int
    flops: dict[Sensor, int]
    input_px: dict[Sensor, tuple[int, int]]
    plain: Activations
    checkpointed: Activations
    checkpointing: bool
    crop_px: int
    precision: str
    images: int
    classes: dict[Sensor, int]
    placeholder: bool

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    def state_bytes(self) -> dict[str, int]:
        """What a process holds between steps, unsharded, by kind."""
        weights = FLOAT_BYTES * self.total + self.buffer_bytes
        gradients = FLOAT_BYTES * self.trainable
        return {"weights": weights, "gradients": gradients, "AdamW moments": 2 * gradients, "EMA": weights}

    def peak_per_image(self, checkpointing: bool) -> int:
        """Activation bytes of one image at the peak: with checkpointing, one block is there in full as well."""
        if not checkpointing:
            return self.plain.per_image
        return self.checkpointed.per_image + (self.plain.per_image - self.checkpointed.per_image) // self.num_blocks

    def process_bytes(self, processes: int, sharded: bool) -> int:
        """Predicted peak of one of ``processes`` processes at the same global batch.

        DDP: the whole state, and where there are several processes the reducer's buckets, as large as the gradients.
        FSDP (``sharded``): the state divided by the processes, and two gathered blocks, one in use and one on its way.
        Both: activations of the process's share of the batch. Loss, workspaces and fragmentation are not in it.
        """
        state = sum(self.state_bytes().values())
        if sharded and processes > 1:
            state = state // processes + 2 * FLOAT_BYTES * self.largest_block
        elif processes > 1:
            state += FLOAT_BYTES * self.trainable
        return state + self.plain.fixed + -(-self.images // processes) * self.peak_per_image(self.checkpointing)


def predict(config: FinetuneConfig) -> Footprint:
    """The footprint of a configuration; classes are those of its data where ``data.root`` exists.

    Raises:
        BabelRSError: The model cannot be built, or the data are there and faulty.
    """
    placeholder = not config.data.root.exists()
    classes = _placeholder_classes(config) if placeholder else _classes_of_data(config)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    detector, checkpointing = (_without_data(config, classes, mode, flag) for flag in (False, True))
    blocks = [sum(p.numel() for p in block.parameters()) for block in _blocks(detector)]
    inputs = {sensor: config.model.input_px.of(sensor) for sensor in classes}
    with mode:
        flops = {sensor: forward_flops(detector, sensor, *size) for sensor, size in inputs.items()}
        plain = _activations(detector, config)
        checkpointed = _activations(checkpointing, config)
    return Footprint(
        parameters=_parameters(detector),
        trainable=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        buffer_bytes=sum(buffer.nbytes for buffer in detector.buffers()),
        largest_block=max(blocks),
        num_blocks=len(blocks),
        flops=flops,
        input_px=inputs,
        plain=plain,
        checkpointed=checkpointed,
        checkpointing=config.model.backbone.grad_checkpointing,
        crop_px=config.augment.crop_px,
        precision=config.precision,
        images=sum(config.batch.count(sensor) for sensor in classes),
        classes={sensor: len(names) for sensor, names in classes.items()},
        placeholder=placeholder,
    )


def forward_flops(detector: Detector, sensor: Sensor, height: int, width: int) -> int:
    """FLOPs from pixels to boxes of one image: convolutions, matrix products and attention; a multiply-add is two."""
    model = SensorDetector(detector, sensor, detector.config.max_detections).eval()
    pixels = torch.zeros(1, height, width, sensor.num_channels, dtype=torch.uint8)
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter, torch.no_grad():
        model(pixels)
    return counter.get_total_flops()


def _attention_flops(queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, **__: Any) -> int:
    """Of the products of queries (N, H, Q, C) with keys (N, H, K, C), and of the shares (N, H, Q, K) with values."""
    shares = queries.numel() // queries[-1] * keys[-2]
    return 2 * shares * (queries[-1] + values[-1])


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""PyTorch has formulas for the fused attention of GPUs only, and CPUs have taken theirs for small inputs since 2.14."""


def saved_bytes(detector: Detector, images: int, size_px: int, precision: str) -> int:
    """Bytes of the tensors that the backward pass of the model needs, without its parameters and buffers.

    Args:
        detector: In training mode.
        images: Of each sensor.
        size_px: Side of the square images.
        precision: ``no``, ``bf16`` or ``fp16``.
    """
    pixels = {
        sensor: torch.zeros(images, size_px, size_px, sensor.num_channels, dtype=torch.uint8)
        for sensor in detector.classes
    }
    with saved_tensors(detector, precision) as saved:
        detector(pixels)
    return saved.num_bytes


def table(footprint: Footprint) -> str:
    """The footprint as Markdown."""
    classes = ", ".join(f"{sensor} {count}" for sensor, count in footprint.classes.items())
    origin = "placeholders, as data.root does not exist: SOI-Det's" if footprint.placeholder else "from the data"
    parts = [
        f"Classes: {classes} ({origin}).",
        markdown_table(("parameters", "millions"), [*_millions(footprint)]),
        markdown_table(
            ("forward, one image", "input, pixels", "GFLOP (a multiply-add counts twice)"),
            [
                (str(sensor), "x".join(map(str, footprint.input_px[sensor])), f"{flops / 1e9:.1f}")
                for sensor, flops in footprint.flops.items()
            ],
        ),
        markdown_table(("state, MiB", "predicted"), [(k, _mib(v)) for k, v in footprint.state_bytes().items()]),
        markdown_table(
            (f"activations, MiB (predicted; {footprint.crop_px} px, precision {footprint.precision})", "value"),
            [
                ("per image", _mib(footprint.peak_per_image(False))),
                ("per image with checkpointing", _mib(footprint.peak_per_image(True))),
                ("weights' copies in the run's precision", _mib(footprint.plain.fixed)),
            ],
        ),
        markdown_table(
            (f"processes, {footprint.images} images in all", "DDP, MiB each (predicted)", "FSDP, MiB each (predicted)"),
            [
                (str(n), _mib(footprint.process_bytes(n, False)), _mib(footprint.process_bytes(n, True)))
                for n in NUM_PROCESSES
                if n <= footprint.images
            ],
        ),
        f"Checkpointing is {'on' if footprint.checkpointing else 'off'} in the last table. {FORMULA}",
    ]
    return "\n\n".join(parts) + "\n"


FORMULA = (
    "DDP: weights, gradients, moments, EMA and, with several processes, buckets as large as the gradients; FSDP: that "
    "state over the number of processes, and two gathered blocks; both: the weights' copies and the activations of a "
    "process's images. The loss, workspaces and the allocator's losses come on top."
)


def _millions(footprint: Footprint) -> Iterable[tuple[str, str]]:
    yield from ((part, f"{count / 1e6:.3f}") for part, count in footprint.parameters.items())
    yield "total", f"{footprint.total / 1e6:.3f}"
    yield "trainable", f"{footprint.trainable / 1e6:.3f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def _placeholder_classes(config: FinetuneConfig) -> Classes:
    return {s: tuple(f"class {i}" for i in range(PLACEHOLDER_CLASSES[s])) for s in config.data.sensors}


def _classes_of_data(config: FinetuneConfig) -> Classes:
    samples = limited(read_split(config.data.root, config.data.sensors, "train"), config.data.images_per_sensor)
    return {sensor: class_list(group) for sensor, group in samples.items()}


def _without_data(config: FinetuneConfig, classes: Classes, mode: FakeTensorMode, checkpointing: bool) -> Detector:
    """The detector on the CPU, of tensors that have shapes and types only."""
    backbone = config.model.backbone.model_copy(update={"grad_checkpointing": checkpointing})
    model = config.model.model_copy(update={"backbone": backbone})
    return without_data(lambda: Detector(model, classes), mode)


def _activations(detector: Detector, config: FinetuneConfig) -> Activations:
    """From one and two images of each sensor: what grows is per image."""
    detector.train()
    one, two = (saved_bytes(detector, n, config.augment.crop_px, config.precision) for n in (1, 2))
    return Activations((two - one) // len(detector.classes), max(0, 2 * one - two))


def _blocks(detector: Detector) -> Iterable[nn.Module]:
    backbone = detector.backbone
    return backbone.blocks if isinstance(backbone, ConvViT) else backbone.vit.blocks


def _parameters(detector: Detector) -> dict[str, int]:
    parts = {name: getattr(detector, name) for name in ("backbone", "aggregate", "pyramid")}
    parts |= {f"{sensor} head": detector.heads[sensor.value] for sensor in detector.classes}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def main(arguments: list[str]) -> int:
    """Print the footprints of settings files, as one Markdown page."""
    sys.stdout.write("# Predicted footprint of training\n\nWritten by `python -m train.footprint")
    sys.stdout.write(f" {' '.join(arguments)}`. Nothing was trained: memory figures are predicted.\n")
    for file in arguments:
        footprint = predict(load_config(FinetuneConfig, ["--config", file]))
        sys.stdout.write(f"\n## {file}\n\n{table(footprint)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
