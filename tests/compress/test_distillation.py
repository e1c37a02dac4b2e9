from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from compress.distill_config import DistillationConfig, DistillConfig
from compress.distillation import Distillation, Student
from compress.teacher import Teacher, load_teacher
from tests.compress.distillation_builders import CLASSES, teacher_model, write_teacher
from tests.train.builders import random_detector, random_pixels, tiny_model
from tests.train.models.vits import tiny_internvit
from train.assigner import Targets
from train.config import ModelConfig
from train.data.batches import Batch
from train.models.detector import Detector

CPU = torch.device("cpu")
CROP = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("distillation") / "teacher")


def settings(teacher: Path, model: ModelConfig | None = None, **distill: Any) -> DistillationConfig:
    return DistillationConfig.model_validate(
        {
            "teacher": teacher,
            "model": model or tiny_model(),
            "augment": {"crop_px": CROP},
            "distill": DistillConfig.model_validate({"gap_start_steps": 1, **distill}),
        }
    )


def objective(config: DistillationConfig) -> Distillation:
    return Distillation(config, load_teacher(config.teacher, CLASSES), CPU)


def drawn_batch(seed: int = 0) -> Batch:
    """One RGB, two SAR and one infrared crop, each with an object."""
    counts = {Sensor.RGB: 1, Sensor.SAR: 2, Sensor.IR: 1}
    box = torch.tensor([[60.0, 50.0, 30.0, 14.0, 0.3]])
    return Batch(
        {s: random_pixels((n, CROP, CROP, s.num_channels), seed + i) for i, (s, n) in enumerate(counts.items())},
        {s: [Targets(box, torch.zeros(1, dtype=torch.long), torch.zeros(0, 5))] * n for s, n in counts.items()},
        {s: [str(s)] * n for s, n in counts.items()},
    )


def student_of(found: Distillation, detector: Detector) -> Student:
    learner = found.learner(detector)
    assert isinstance(learner, Student)
    return learner


def test_a_sensor_s_loss_is_detection_and_its_gap_with_the_sensor_s_weight(folder: Path) -> None:
    weights = {"detection_weight": 0.5, "feature_weight": 2.0, "class_weight": 0.3, "box_weight": 0.7,
               "direction_weight": 1.1}  # fmt: skip
    found = objective(settings(folder, **weights))
    student = student_of(found, random_detector(tiny_model(), 2, CLASSES))
    found.gap_weights.weights = {Sensor.RGB: 0.6, Sensor.SAR: 1.6, Sensor.IR: 0.8}
    for sensor, loss in found.losses(student, drawn_batch()).items():
        part = {name: float(value) for name, value in loss.parts.items()}
        gap = 2.0 * part["feature_gap"] + 0.3 * part["class_gap"] + 0.7 * part["box_gap"] + 1.1 * part["direction_gap"]
        assert part["gap"] == pytest.approx(gap) and min(part["feature_gap"], part["class_gap"], part["box_gap"]) > 0
        assert part["gap_weight"] == found.gap_weights.weights[sensor]
        assert float(loss.total.detach()) == pytest.approx(0.5 * part["detection"] + part["gap_weight"] * gap)
        assert (part["direction_gap"] > 0) == (sensor is not Sensor.SAR)


def test_a_student_with_its_teacher_s_weights_has_no_gap(tmp_path: Path) -> None:
    write_teacher(tmp_path / "same", model=tiny_model())
    found = objective(settings(tmp_path / "same", tiny_model()))
    student = student_of(found, copy.deepcopy(found.teacher.detector)).eval()
    for project in student.projections:
        assert isinstance(project, torch.nn.Linear)
        torch.nn.init.eye_(project.weight)
        torch.nn.init.zeros_(project.bias)
    for loss in found.losses(student, drawn_batch()).values():
        assert float(loss.parts["gap"]) < 1e-9 and float(loss.total.detach()) == float(loss.parts["detection"]) > 0
    with torch.no_grad():
        student.detector.backbone.blocks[0].mlp.fc1.bias += 0.5
    assert all(float(loss.parts["gap"]) > 1e-3 for loss in found.losses(student, drawn_batch()).values())


def test_gradients_reach_student_and_projections_and_never_the_teacher(folder: Path) -> None:
    found = objective(settings(folder, detection_weight=0.0))
    student = student_of(found, random_detector(tiny_model(), 3, CLASSES)).train().requires_grad_()
    before = {name: tensor.clone() for name, tensor in found.teacher.detector.state_dict().items()}
    losses = found.losses(student, drawn_batch())
    torch.stack([loss.total for loss in losses.values()]).sum().backward()
    without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == [], "these parameters learn nothing"
    assert len(student.projections) == len(student.detector.backbone.taps)
    assert all(p.grad is None and not p.requires_grad for p in found.teacher.detector.parameters())
    assert not found.teacher.detector.training
    assert all(torch.equal(before[n], t) for n, t in found.teacher.detector.state_dict().items()), "statistics moved"


@pytest.mark.parametrize("changed", list(Sensor))
def test_every_sensor_is_compared_with_the_teacher_s_view_of_its_own_images(folder: Path, changed: Sensor) -> None:
    found = objective(settings(folder))
    student = student_of(found, random_detector(tiny_model(), 4, CLASSES)).eval()
    batch, other = drawn_batch(0), drawn_batch(0)
    other.pixels[changed] = random_pixels(tuple(batch.pixels[changed].shape), 99)
    first, second = found.losses(student, batch), found.losses(student, other)
    for sensor in Sensor:
        for name in ("feature_gap", "class_gap", "box_gap"):
            pair = float(first[sensor].parts[name]), float(second[sensor].parts[name])
            assert (abs(pair[0] - pair[1]) < 1e-5) == (sensor is not changed), (sensor, name, pair)


def test_a_vit_with_a_class_token_and_finer_tokens_teaches_a_convolutional_student(tmp_path: Path) -> None:
    model = teacher_model(backbone=tiny_internvit(patch_px=16, image_px=64))
    write_teacher(tmp_path / "vit", model=model)
    found = objective(settings(tmp_path / "vit"))
    student = student_of(found, random_detector(tiny_model(), 5, CLASSES))
    assert [tuple(project.weight.shape) for project in student.projections] == [(32, 16)] * 2
    view = found.teacher.look(drawn_batch().pixels)
    assert [tuple(tokens.shape) for tokens in view.maps] == [(4, 8, 8, 32)] * 3
    losses = found.losses(student, drawn_batch())
    assert all(0 < float(loss.parts["feature_gap"]) < 4 for loss in losses.values())


def test_features_alone_are_learned_from_a_teacher_with_other_strides(tmp_path: Path) -> None:
    write_teacher(tmp_path / "coarse", model=teacher_model(strides=(16, 32, 64)))
    heads = {"class_weight": 0.0, "box_weight": 0.0, "direction_weight": 0.0}
    found = objective(settings(tmp_path / "coarse", **heads))
    losses = found.losses(student_of(found, random_detector(tiny_model(), 6, CLASSES)), drawn_batch())
    assert all("class_gap" not in loss.parts and float(loss.parts["feature_gap"]) > 0 for loss in losses.values())


def test_without_features_there_are_no_projections(folder: Path) -> None:
    found = objective(settings(folder, feature_weight=0.0))
    student = student_of(found, random_detector(tiny_model(), 7, CLASSES))
    assert len(student.projections) == 0
    assert all("feature_gap" not in loss.parts for loss in found.losses(student, drawn_batch()).values())


def test_the_weights_follow_the_gaps_that_were_observed(folder: Path) -> None:
    found = objective(settings(folder, gap_decay=0.0))
    student = student_of(found, random_detector(tiny_model(), 8, CLASSES)).eval()
    first, second = (found.losses(student, drawn_batch(seed)) for seed in (0, 50))
    found.observe(first)
    found.observe(second)
    left = {s: float(second[s].parts["gap"]) / float(first[s].parts["gap"]) for s in first}
    mean = sum(left.values()) / 3
    assert found.gap_weights.weights == pytest.approx({s: share / mean for s, share in left.items()})
    third = found.losses(student, drawn_batch())
    assert {s: loss.parts["gap_weight"] for s, loss in third.items()} == found.gap_weights.weights


def test_a_teacher_that_gives_nan_is_named(folder: Path) -> None:
    found = objective(settings(folder))
    with torch.no_grad():
        found.teacher.detector.heads["ir"].classify.bias.fill_(float("nan"))
    with pytest.raises(BabelRSError, match="teacher's outputs are not finite"):
        found.losses(student_of(found, random_detector(tiny_model(), 9, CLASSES)), drawn_batch())


def test_a_state_of_another_teacher_is_refused(folder: Path) -> None:
    found = objective(settings(folder))
    other = Distillation(found.config, Teacher(found.teacher.detector, found.teacher.record, "0" * 64), CPU)
    with pytest.raises(BabelRSError, match="began with a teacher of SHA-256 000"):
        found.restore(other.state())
    found.restore(found.state())
