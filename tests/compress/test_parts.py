from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.parts import is_head, parts_of, serves
from tests.train.builders import CLASSES, tiny_backbone, tiny_model
from train.config import BackboneConfig
from train.models.detector import Detector


def parts(backbone: BackboneConfig) -> tuple[str, ...]:
    with torch.device("meta"):
        detector = Detector(tiny_model(backbone=backbone), CLASSES)
    layers = [name for name, module in detector.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return parts_of(layers)


HEADS = ("head rgb", "head sar", "head ir")
BACKBONES = {
    "conv_vit": (
        tiny_backbone(),
        (*(f"stem {stage}" for stage in range(1, 6)), "patches", "block 1", "block 2", "block 3"),
    ),
    "timm": (
        BackboneConfig(name="vit_tiny_patch16_224", taps=(1, 3), stem_widths=(8, 12, 16), stem_blocks=(0, 0, 0)),
        ("prior", "patches", "block 1", "block 2", "block 3"),
    ),
    "internvit": (
        BackboneConfig(
            name="internvit_300m", width=16, depth=2, num_heads=2, taps=(1, 2), patch_px=16, image_px=64,
            stem_widths=(8, 12, 16), stem_blocks=(0, 0, 0),
        ),
        ("prior", "patches", "block 1", "block 2"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_of_every_backbone_belongs_to_a_part(name: str) -> None:
    backbone, expected = BACKBONES[name]
    found = parts(backbone)
    assert sorted(found) == sorted((*expected, "pyramid", *HEADS))


def test_heads_serve_their_own_sensor_only() -> None:
    assert serves("head ir", "ir") and not serves("head ir", "rgb") and serves("block 2", "sar")
    assert is_head("head sar") and not is_head("pyramid")
