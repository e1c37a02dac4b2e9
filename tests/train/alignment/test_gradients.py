from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babelrs.errors import BabelRSError
from babelrs.radiometry import DEFAULT_PROFILES
from babelrs.sensors import Sensor
from tests.train.alignment.builders import write_concepts
from tests.train.builders import tiny_backbone, tiny_model
from train.align import read_training
from train.alignment.config import AlignConfig
from train.alignment.gradients import gradient_cosines, shared_parameters, summary
from train.alignment.sources import Subject, new_detector
from train.config import BackboneConfig, ModelConfig
from train.data.batches import CropDataset, make_loader
from train.data.samples import class_list
from train.losses import head_loss
from train.models.pyramid import anchor_points

CPU = torch.device("cpu")
VIT = BackboneConfig.model_validate({
    "name": "internvit_300m", "width": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "patch_px": 16, "image_px": 64,
    "taps": [1, 2], "stem_widths": [8, 8, 12], "stem_blocks": [0, 0, 0],
})  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    write_concepts(folder, "train")
    return folder


def settings(data: Path, **changes: Any) -> AlignConfig:
    fields: dict[str, Any] = {
        "checkpoint": data, "data": data, "batches": 3, "head_steps": 4, "batch": {"rgb": 2, "sar": 3, "ir": 2},
        "augment": {"crop_px": 128, "scale_min": 0.9, "scale_max": 1.1}, "seed": 6,
    }  # fmt: skip
    return AlignConfig.model_validate({**fields, **changes})


def subject(config: AlignConfig, model: ModelConfig, own_heads: bool) -> Subject:
    classes = {sensor: class_list(group) for sensor, group in read_training(config).items()}
    return Subject(new_detector(model, classes, 1), dict(DEFAULT_PROFILES), own_heads, {})


@pytest.mark.parametrize("backbone", [tiny_backbone(drop_path=0.3), VIT], ids=["conv_vit", "internvit"])
def test_new_heads_learn_while_what_is_shared_stays(data: Path, backbone: BackboneConfig) -> None:
    config = settings(data, head_steps=60, batches=2, optimizer={"lr": 5e-3, "warmup_steps": 3})
    some = subject(config, tiny_model(backbone=backbone), own_heads=False)
    before = {name: tensor.clone() for name, tensor in some.detector.state_dict().items()}
    untrained = gradient_cosines(subject(config, some.detector.config, True), read_training(config), config, CPU)
    trained = gradient_cosines(some, read_training(config), config, CPU)
    changed = {name for name, tensor in some.detector.state_dict().items() if not torch.equal(before[name], tensor)}
    assert not [name for name in changed if name.startswith("backbone.") and "spatial_prior" not in name]
    assert any("spatial_prior" in name for name in changed) == (backbone is VIT)
    assert {name.split(".")[1] for name in changed if name.startswith("heads.")} == {"rgb", "sar", "ir"}
    for sensor in Sensor:
        assert np.mean(trained.losses[sensor]) < np.mean(untrained.losses[sensor])
    assert trained.heads == "new, 60 steps on the frozen backbone" and untrained.heads == "its own"


def test_cosines_are_those_of_gradients_taken_one_by_one(data: Path) -> None:
    config = settings(data)
    some = subject(config, tiny_model(backbone=VIT), own_heads=True)
    samples = read_training(config)
    found = gradient_cosines(some, samples, config, CPU)
    detector = new_detector(some.detector.config, some.detector.classes, 1)
    dataset = CropDataset(samples, detector.classes, some.profiles, config.augment, cache=False)
    points, strides = anchor_points(128, 128, detector.config.strides, CPU)
    for number, batch in enumerate(make_loader(dataset, config.batch, config.reading, 7, 6, 4)):
        vectors = {}
        for sensor in Sensor:  # each sensor's images alone
            detector.zero_grad()
            raw = detector({sensor: batch.pixels[sensor]})[sensor]
            loss = head_loss(raw, batch.targets[sensor], points, strides, config.loss, config.assigner).total
            loss.backward()
            vit = [weight for name, weight in detector.backbone.named_parameters() if name.startswith("vit.")]
            vectors[sensor] = np.concatenate([w.grad.double().numpy().ravel() for w in vit])  # type: ignore[union-attr]
            assert found.losses[sensor][number] == pytest.approx(loss.item(), rel=1e-4)
            assert found.norms[sensor][number] == pytest.approx(np.linalg.norm(vectors[sensor]), rel=1e-3)
        for first, second in (("ir", "rgb"), ("ir", "sar"), ("rgb", "sar")):
            a, b = vectors[Sensor(first)], vectors[Sensor(second)]
            wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert found.cosines[f"{first}-{second}"][number] == pytest.approx(wanted, abs=1e-3)
    assert number == 2
    assert {len(shared_parameters(detector)), len(vit)} == {len(vit)}


def test_the_same_weights_have_the_same_numbers_on_both_sides_and_another_seed_has_others(data: Path) -> None:
    config, other = settings(data, batches=1, head_steps=2), settings(data, batches=1, head_steps=2, seed=7)
    one, two, three = (
        gradient_cosines(subject(given, tiny_model(), False), read_training(given), given, CPU)
        for given in (config, config, other)
    )
    assert one == two and one.cosines != three.cosines


def test_own_heads_are_looked_at_on_the_batches_that_new_heads_are_looked_at_on(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    original = CropDataset.__getitem__

    def noted(self: CropDataset, draw: Any) -> Any:
        seen[-1].append(f"{draw}")
        return original(self, draw)

    monkeypatch.setattr(CropDataset, "__getitem__", noted)
    config = settings(data)
    for own in (True, False):
        seen.append([])
        gradient_cosines(subject(config, tiny_model(), own), read_training(config), config, CPU)
    assert len(seen[0]) == 3 * 7 and len(seen[1]) == 7 * 7
    assert seen[1][-21:] == seen[0] and not set(seen[1][:-21]) & set(seen[0])


def test_the_summary_is_numpy_s_and_leaves_out_what_is_no_number() -> None:
    values = [0.5, -0.25, math.nan, -0.1]
    found = summary(values)
    kept = np.array([0.5, -0.25, -0.1])
    assert found["mean"] == pytest.approx(kept.mean()) and found["std"] == pytest.approx(kept.std(ddof=1))
    assert found["negative_share"] == pytest.approx(2 / 3) and found["batches"] == 3 and found["undefined"] == 1
    assert summary([math.nan])["mean"] is None and summary([0.1])["std"] is None


def test_crops_that_do_not_fit_and_unknown_classes_are_refused(data: Path) -> None:
    config = settings(data, augment={"crop_px": 96})
    with pytest.raises(BabelRSError, match=r"crop_px 96 is below twice the coarsest stride 64"):
        gradient_cosines(subject(config, tiny_model(), True), read_training(config), config, CPU)
    fits = settings(data)
    lacking = new_detector(tiny_model(), dict.fromkeys(Sensor, ("ship",)), 1)
    with pytest.raises(BabelRSError, match="small-vehicle"):
        gradient_cosines(Subject(lacking, dict(DEFAULT_PROFILES), True, {}), read_training(fits), fits, CPU)


def test_heads_that_diverge_stop_the_measurement(data: Path) -> None:
    config = settings(data, head_steps=40, optimizer={"lr": 1e30, "warmup_steps": 0, "clip_norm": 1e30})
    with pytest.raises(BabelRSError, match=r"loss of new heads is not finite at step \d+. Lower optimizer.lr"):
        gradient_cosines(subject(config, tiny_model(), False), read_training(config), config, CPU)
