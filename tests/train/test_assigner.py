from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch

from babelrs.boxes import to_corners
from train.assigner import Assignment, Targets, assign, inside_boxes
from train.config import AssignerConfig
from train.gaussian import box_gaussian
from train.models.head import MAX_SIZE_STRIDES
from train.models.pyramid import anchor_points

LEVELS = (8, 16, 32)
POINTS, STRIDES = anchor_points(128, 96, LEVELS, torch.device("cpu"))


def settings(points_per_object: int = 5, radius: float = 1.0) -> AssignerConfig:
    return AssignerConfig.model_validate(
        {
            "points_per_object": points_per_object,
            "score_exponent": 0.5,
            "overlap_exponent": 4,
            "centre_radius_strides": radius,
        }
    )


def gaussians(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return box_gaussian(boxes[:, :4], torch.stack([(2 * boxes[:, 4]).cos(), (2 * boxes[:, 4]).sin()], -1))


def random_boxes(rng: np.random.Generator, count: int) -> torch.Tensor:
    long = np.exp(rng.uniform(np.log(6), np.log(90), count))
    columns = [rng.uniform(0, 96, count), rng.uniform(0, 128, count), long, long * rng.uniform(0.05, 1, count)]
    return torch.from_numpy(np.stack([*columns, rng.uniform(-math.pi / 2, math.pi / 2, count)], 1)).float()


def run(
    boxes: torch.Tensor, ignore: torch.Tensor | None = None, seed: int = 0, config: AssignerConfig | None = None
) -> Assignment:
    """Assign with random scores and predictions that lie near their points."""
    rng = np.random.default_rng([seed, 99])
    count = len(POINTS)
    scores = torch.from_numpy(rng.uniform(0.001, 0.9, (count, 3))).float()
    centre = POINTS + torch.from_numpy(rng.normal(0, 4, (count, 2))).float()
    sides = torch.from_numpy(np.exp(rng.uniform(np.log(4), np.log(80), (count, 2)))).float()
    predicted = torch.cat([centre, sides, torch.from_numpy(rng.uniform(-1.5, 1.5, (count, 1))).float()], 1)
    labels = torch.from_numpy(rng.integers(0, 3, len(boxes)))
    targets = Targets(boxes, labels, torch.zeros(0, 5) if ignore is None else ignore)
    return assign(scores, gaussians(predicted), targets, gaussians(boxes), POINTS, STRIDES, config or settings())


def polygons(boxes: torch.Tensor) -> list[shapely.Polygon]:
    return [shapely.Polygon(corners) for corners in to_corners(boxes.numpy())]


def near_centre(box: torch.Tensor, radius: float) -> torch.Tensor:
    return (POINTS - box[:2]).abs().amax(1) <= radius * STRIDES


@pytest.mark.parametrize("seed", range(5))
def test_inside_agrees_with_shapely(seed: int) -> None:
    boxes = random_boxes(np.random.default_rng(seed), 12)
    found = inside_boxes(POINTS, boxes)
    for row, polygon in zip(found, polygons(boxes), strict=True):
        distance = shapely.distance(polygon.exterior, shapely.points(POINTS.numpy()))
        wanted = shapely.contains_xy(polygon, POINTS.numpy())
        clear = distance > 1e-3  # on the edge either answer will do
        assert (row.numpy() == wanted)[clear].all()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
def test_points_lie_in_their_object_or_near_its_centre(seed: int, radius: float) -> None:
    boxes = random_boxes(np.random.default_rng(seed), 8)
    result = run(boxes, seed=seed, config=settings(radius=radius))
    outlines = polygons(boxes)
    assert len(result.points) >= 5
    for point, owner in zip(result.points.tolist(), result.objects.tolist(), strict=True):
        inside = outlines[owner].distance(shapely.Point(*POINTS[point].tolist())) < 1e-3
        assert inside or near_centre(boxes[owner], radius)[point]


@pytest.mark.parametrize("seed", range(12))
def test_a_point_learns_one_object_and_an_object_learns_from_a_bounded_number(seed: int) -> None:
    result = run(random_boxes(np.random.default_rng(seed), 10), seed=seed)
    assert len(result.points.unique()) == len(result.points) == len(result.objects) == len(result.quality)
    assert int(result.objects.bincount().max()) <= 5
    assert (result.quality >= 0).all() and (result.quality <= 1).all()


def test_points_that_fit_equally_well_do_not_exceed_the_bound() -> None:
    """At the start of training predictions are alike, so that points around a centre fit exactly as well."""
    box = torch.tensor([[48.0, 64.0, 40.0, 40.0, 0.0]])
    predicted = torch.cat([POINTS, torch.full((len(POINTS), 2), 30.0), torch.zeros(len(POINTS), 1)], 1)
    targets = Targets(box, torch.tensor([0]), torch.zeros(0, 5))
    scores = torch.full((len(POINTS), 1), 0.01)
    for bound in (1, 2, 3, 5, 6, 7):
        arguments = (scores, gaussians(predicted), targets, gaussians(box), POINTS, STRIDES)
        assert len(assign(*arguments, settings(bound)).points) == bound


@pytest.mark.parametrize("seed", range(20))
def test_every_object_gets_a_point_unless_another_took_them_all(seed: int) -> None:
    boxes = random_boxes(np.random.default_rng(seed), 14)
    result = run(boxes, seed=seed)
    owned = set(result.objects.tolist())
    outlines = polygons(boxes)
    for index in set(range(len(boxes))) - owned:
        candidates = near_centre(boxes[index], 1.0) | inside_boxes(POINTS, boxes[index : index + 1])[0]
        taken = [point for point in result.points.tolist() if candidates[point]]
        assert len(taken) >= 1, f"object {index} of seed {seed} has free points and got none"
        rivals = {int(result.objects[(result.points == point).nonzero()[0, 0]]) for point in taken}
        assert any(outlines[index].distance(outlines[rival]) < 2 * max(LEVELS) for rival in rivals)


def test_well_separated_objects_all_learn() -> None:
    rng = np.random.default_rng(4)
    for seed in range(20):
        centres = np.array([[16, 16], [80, 16], [16, 64], [80, 64], [16, 112], [80, 112]]) + rng.uniform(-6, 6, (6, 2))
        sides = np.sort(rng.uniform(5, 30, (6, 2)))[:, ::-1]
        boxes = torch.from_numpy(np.column_stack([centres, sides, rng.uniform(-1.5, 1.5, 6)])).float()
        assert set(run(boxes, seed=seed).objects.tolist()) == set(range(6))


@pytest.mark.parametrize("seed", range(10))
def test_tiny_objects_are_learned_wherever_they_lie(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(30):
        centre = rng.uniform([0, 0], [96, 128])
        box = torch.tensor([[*centre, 6.0, 6.0 * rng.uniform(0.3, 1), rng.uniform(-1.5, 1.5)]]).float()
        result = run(box, seed=seed)
        assert len(result.points) >= 1 and (STRIDES[result.points].min() == 8 or result.quality.max() > 0)


def test_objects_too_large_for_every_level_are_learned_near_the_centre_of_the_coarsest() -> None:
    size = MAX_SIZE_STRIDES * max(LEVELS) + 100
    box = torch.tensor([[48.0, 64.0, size, size / 2, 0.3]])
    result = run(box)
    assert len(result.points) >= 1 and (STRIDES[result.points] == max(LEVELS)).all()


def test_an_object_goes_only_to_levels_that_can_represent_its_size() -> None:
    box = torch.tensor([[48.0, 64.0, 8 * MAX_SIZE_STRIDES + 1, 20.0, 0.0]])
    for seed in range(10):
        assert (STRIDES[run(box, seed=seed, config=settings(40)).points] > 8).all()


def test_a_shared_point_learns_the_better_fitting_object() -> None:
    boxes = torch.tensor([[44.0, 44.0, 24.0, 24.0, 0.0], [52.0, 44.0, 24.0, 24.0, 0.0]])
    predicted = torch.cat([POINTS, torch.full((len(POINTS), 2), 24.0), torch.zeros(len(POINTS), 1)], 1)
    predicted[:, :2] = boxes[1, :2]  # every point predicts the second object
    targets = Targets(boxes, torch.tensor([0, 0]), torch.zeros(0, 5))
    scores = torch.full((len(POINTS), 1), 0.3)
    result = assign(scores, gaussians(predicted), targets, gaussians(boxes), POINTS, STRIDES, settings(50))
    shared = inside_boxes(POINTS, boxes).all(0)
    owners = dict(zip(result.points.tolist(), result.objects.tolist(), strict=True))
    assert int(shared.sum()) > 2
    assert {owners[point] for point in shared.nonzero().flatten().tolist()} == {1}


def test_the_best_point_gets_its_overlap_as_quality() -> None:
    box = torch.tensor([[44.0, 44.0, 30.0, 12.0, 0.4]])
    result = run(box, seed=3)
    assert result.quality.max() > 0 and result.quality.argmax() >= 0
    perfect = box.expand(len(POINTS), 5)
    targets = Targets(box, torch.tensor([0]), torch.zeros(0, 5))
    exact = assign(
        torch.full((len(POINTS), 1), 0.5), gaussians(perfect), targets, gaussians(box), POINTS, STRIDES, settings()
    )
    assert (exact.quality > 0.99).all()


@pytest.mark.parametrize("seed", range(5))
def test_ignored_points_lie_in_ignored_boxes_and_learn_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, ignore = random_boxes(rng, 4), random_boxes(rng, 3)
    result = run(boxes, ignore, seed)
    wanted = inside_boxes(POINTS, ignore).any(0)
    wanted[result.points] = False
    assert torch.equal(result.ignored, wanted)


def test_images_without_objects_have_no_positives() -> None:
    ignore = torch.tensor([[48.0, 64.0, 20.0, 20.0, 0.0]])
    for regions in (torch.zeros(0, 5), ignore):
        result = run(torch.zeros(0, 5), regions)
        assert len(result.points) == len(result.objects) == len(result.quality) == 0
        assert torch.equal(result.ignored, inside_boxes(POINTS, regions).any(0))
    assert bool(run(torch.zeros(0, 5), ignore).ignored.any())
