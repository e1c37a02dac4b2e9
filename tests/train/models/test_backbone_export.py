from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from babelrs.errors import BabelRSError
from tests.train.models.vlms import random_images, random_vlm
from train.config import BackboneConfig
from train.models.backbone import InternViTBackbone
from train.models.backbone_export import export_backbone
from train.models.backbone_weights import load_backbone_weights


def detector_backbone(folder: Path, **changes: Any) -> InternViTBackbone:
    """The backbone that the record asks for, at other random weights."""
    torch.manual_seed(99)
    settings = json.loads((folder / "backbone.json").read_text())["backbone"]
    return InternViTBackbone(BackboneConfig.model_validate({**settings, **changes})).eval()


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
@pytest.mark.parametrize("taps", [(1, 2, 3, 4), (2, 3)])
def test_detection_reads_the_backbone_and_sees_the_same_features(
    tmp_path: Path, taps: tuple[int, ...], size: tuple[int, int]
) -> None:
    model = random_vlm(seed=3, taps=taps)
    export_backbone(model, tmp_path)
    backbone = detector_backbone(tmp_path)
    report = load_backbone_weights(backbone, tmp_path)
    assert not report.ignored and not report.resized
    assert all(name.startswith("spatial_prior.") for name in report.missing)
    assert {name for name in backbone.state_dict() if name.startswith("vit.")} == set(report.used)
    images = random_images(2, 5, *size)
    with torch.no_grad():
        wanted, found = model.model.tapped(images)[0], backbone(images).taps
    assert len(found) == len(taps)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one[:, 1:], other, rtol=0, atol=1e-4)
        assert other.std() > 0.3


def test_the_record_says_what_was_read_and_where_lvsa_ended(tmp_path: Path) -> None:
    model = random_vlm(seed=3, taps=(1, 3), tau=10)
    model.lvsa_step = 5
    export_backbone(model.to(torch.bfloat16), tmp_path)
    record = json.loads((tmp_path / "backbone.json").read_text())
    assert record["schema"] == "babelrs.backbone/1"
    assert record["merge"] == {"strategy": "lvsa", "step": 5, "tau": 10, "weights": [0.25, 0.75]}
    assert record["backbone"] == {
        "name": "internvit_300m", "width": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0, "patch_px": 8,
        "image_px": 32, "taps": [1, 3],
    }  # fmt: skip
    load_backbone_weights(detector_backbone(tmp_path), tmp_path)


def test_a_backbone_with_other_heads_is_refused(tmp_path: Path) -> None:
    export_backbone(random_vlm(), tmp_path)
    with pytest.raises(BabelRSError, match="num_attention_heads is 2, not 4"):
        load_backbone_weights(detector_backbone(tmp_path, num_heads=4), tmp_path)


def test_a_vision_tower_that_detection_lacks_is_refused_with_all_reasons(tmp_path: Path) -> None:
    model = random_vlm()
    model.config.vision_config.norm_type, model.config.vision_config.image_size = "rms_norm", (32, 48)
    with pytest.raises(BabelRSError) as caught:
        export_backbone(model, tmp_path / "out")
    assert "norm_type is 'rms_norm', not 'layer_norm'" in str(caught.value)
    assert "image_size (32, 48) is not square" in str(caught.value)
    assert not (tmp_path / "out").exists()
