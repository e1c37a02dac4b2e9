from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelrs.sensors import Sensor
from tests.train.alignment.builders import planted
from train.alignment.features import Objects
from train.alignment.measures import (
    FORMS,
    SETS,
    PairMeasures,
    centroid_cosines,
    measure_pairs,
    pair_means,
    to_record,
    what_cannot_be_measured,
)

THREE = ("car", "ship", "tank")
EVERYWHERE = dict.fromkeys(Sensor, THREE)
MIXED = {
    Sensor.RGB: ("car", "harbor", "ship", "truck"),
    Sensor.SAR: ("bridge", "car", "ship"),
    Sensor.IR: ("bus", *THREE),
}


def rows_of(objects: Objects, concept: str) -> list[list[float]]:
    pairs = zip(objects.features.astype(np.float64).tolist(), objects.concepts, strict=True)
    return [row for row, name in pairs if name == concept]


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def less(row: Sequence[float], mean: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(row, mean, strict=True)]


def oracle(first: Objects, second: Objects, concepts: str, form: str) -> dict[str, float]:
    """The definitions again, object by object, in plain Python."""
    kept = [sorted(set(side.concepts)) for side in (first, second)]
    shared = [name for name in kept[0] if name in kept[1]]
    if concepts == "shared":
        kept = [shared, shared]
    members = [{name: rows_of(side, name) for name in names} for side, names in zip((first, second), kept, strict=True)]
    centroids = [{name: mean_of(rows) for name, rows in side.items()} for side in members]
    means = [mean_of(list(side.values())) for side in centroids]
    lengths = [[math.sqrt(sum(x * x for x in row)) for rows in side.values() for row in rows] for side in members]
    apart = math.sqrt(sum(x * x for x in less(*means)))
    gap = apart / ((sum(lengths[0]) / len(lengths[0]) + sum(lengths[1]) / len(lengths[1])) / 2)
    if form == "raw":
        means = [[0.0] * len(means[0])] * 2
    placed = [{n: less(c, mean) for n, c in side.items()} for side, mean in zip(centroids, means, strict=True)]
    same = [cosine(placed[0][name], placed[1][name]) for name in shared]
    different = [cosine(placed[0][a], placed[1][b]) for a in kept[0] for b in kept[1] if a != b]

    def accuracy(asked: int, known: int) -> float:
        shares = []
        for name in shared:
            hits = 0
            for row in members[asked][name]:
                here = less(row, means[asked])
                hits += max(kept[known], key=lambda other: cosine(here, placed[known][other])) == name
            shares.append(hits / len(members[asked][name]))
        return sum(shares) / len(shares)

    found = {"same": sum(same) / len(same), "different": sum(different) / len(different), "gap": gap}
    chances = {"chance_forward": 1 / len(kept[1]), "chance_backward": 1 / len(kept[0])}
    return {
        **found,
        **chances,
        "margin": found["same"] - found["different"],
        "forward": accuracy(0, 1),
        "backward": accuracy(1, 0),
    }


def uneven(objects: Objects, seed: int) -> Objects:
    """From 2 to 9 objects of each concept, in mixed order."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([
        rng.choice(np.flatnonzero(np.array(objects.concepts) == name), 2 + 7 * index // 3, replace=False)
        for index, name in enumerate(sorted(set(objects.concepts)))
    ])  # fmt: skip
    rows = rng.permutation(rows)
    return Objects(objects.features[rows], tuple(objects.concepts[row] for row in rows), objects.images[rows])


@pytest.mark.parametrize("shared", [0.0, 0.4, 1.0])
def test_every_number_is_that_of_plain_loops(shared: float) -> None:
    alike = planted(5, MIXED, shared, offset=0.7, noise=1.5, count=9, channels=9)
    objects = {sensor: uneven(found, seed) for seed, (sensor, found) in enumerate(alike.items())}
    pairs = measure_pairs(objects)
    assert list(pairs) == ["ir-rgb", "ir-sar", "rgb-sar"]
    for first, second in combinations(sorted(Sensor), 2):
        pair = pairs[f"{first}-{second}"]
        for concepts in SETS:
            for form in FORMS:
                wanted = oracle(objects[first], objects[second], concepts, form)
                assert pair.gaps[concepts] == pytest.approx(wanted.pop("gap"), rel=1e-9)
                assert vars(pair.closeness[concepts, form]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0))
def test_turning_and_scaling_the_features_changes_nothing(seed: int, scale: float) -> None:
    objects = planted(seed, MIXED, 0.5, offset=0.5, noise=1.0, count=6, channels=8)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))
    turned = {
        sensor: Objects((scale * one.features.astype(np.float64) @ turn), one.concepts, one.images)  # type: ignore[arg-type]
        for sensor, one in objects.items()
    }
    assert_equal(measure_pairs(turned), measure_pairs(objects), abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_what_only_tells_the_sensors_apart_is_in_the_gap_and_not_in_centred_numbers(seed: int) -> None:
    objects = planted(seed, EVERYWHERE, 0.7, count=6, channels=8)
    moved = {**objects, Sensor.IR: shifted(objects[Sensor.IR], 3.0)}
    before, after = (measure_pairs(one)["ir-sar"] for one in (objects, moved))
    assert vars(after.closeness["shared", "centred"]) == pytest.approx(
        vars(before.closeness["shared", "centred"]), abs=1e-5
    )
    assert after.gaps["shared"] > before.gaps["shared"] + 0.5


def shifted(objects: Objects, by: float) -> Objects:
    step = np.full(objects.features.shape[1], by, np.float32)
    return Objects(objects.features + step, objects.concepts, objects.images)


def assert_equal(found: dict[str, PairMeasures], wanted: dict[str, PairMeasures], abs: float) -> None:
    for name, pair in wanted.items():
        assert found[name].concepts == pair.concepts
        assert found[name].gaps == pytest.approx(pair.gaps, abs=abs)
        for key, one in pair.closeness.items():
            assert vars(found[name].closeness[key]) == pytest.approx(vars(one), abs=abs, nan_ok=True)


def test_alike_features_at_all_sensors_are_as_by_hand() -> None:
    rows = np.array([[4, 1], [4, -1], [0, 3], [0, 1]], np.float32)  # centroids (4, 0) and (0, 2)
    one = Objects(rows, ("car", "car", "ship", "ship"), np.arange(4))
    pair = measure_pairs({Sensor.RGB: one, Sensor.IR: one})["ir-rgb"]
    raw, centred = (pair.closeness["shared", form] for form in FORMS)
    assert vars(raw) == {
        "same": 1, "different": 0, "margin": 1, "forward": 1, "backward": 1,
        "chance_forward": 0.5, "chance_backward": 0.5,
    }  # fmt: skip
    assert (centred.same, centred.different, centred.accuracy) == (pytest.approx(1), pytest.approx(-1), 1)
    assert pair.gaps == {"shared": 0, "all": 0}


def test_the_gap_is_as_by_hand() -> None:
    near = Objects(np.array([[3, 0], [5, 0], [0, 4]], np.float32), ("car", "car", "ship"), np.arange(3))  # mean (2, 2)
    far = Objects(np.array([[4, 6], [0, 10]], np.float32), ("car", "ship"), np.arange(2))  # mean (2, 8)
    pair = measure_pairs({Sensor.IR: near, Sensor.SAR: far})["ir-sar"]
    assert pair.gaps["all"] == pytest.approx(6 / ((4 + (52**0.5 + 10) / 2) / 2))


@pytest.mark.parametrize("seed", range(3))
def test_planted_alignment_is_found_and_its_absence_too(seed: int) -> None:
    aligned, apart = (pair_means(measure_pairs(planted(seed, EVERYWHERE, shared))) for shared in (1.0, 0.0))
    for form, margin in (("raw", 0.8), ("centred", 1.2)):
        assert aligned.closeness["shared", form].margin > margin  # type: ignore[index]
        assert aligned.closeness["shared", form].accuracy > 0.97  # type: ignore[index]
    assert abs(apart.closeness["shared", "raw"].margin) < 0.25
    assert apart.closeness["shared", "raw"].accuracy < 0.75 and apart.closeness["shared", "raw"].chance == 1 / 3


def test_a_gap_hides_alignment_until_it_is_subtracted() -> None:
    found = pair_means(measure_pairs(planted(1, EVERYWHERE, 1.0, offset=6.0)))
    raw, centred = found.closeness["shared", "raw"], found.closeness["shared", "centred"]
    assert raw.margin < 0.1 and centred.margin > 1.2 and centred.accuracy > 0.97 and found.gaps["shared"] > 1


def test_what_is_not_shared_cannot_be_measured_and_is_said() -> None:
    concepts = {Sensor.RGB: ("car", "ship"), Sensor.SAR: ("tank",), Sensor.IR: ("car", "tank", "truck")}
    objects = planted(0, concepts, 1.0)
    pairs = measure_pairs(objects)
    none, one = pairs["rgb-sar"], pairs["ir-rgb"]
    for form in FORMS:
        assert all(math.isnan(value) for value in vars(none.closeness["shared", form]).values())
    assert math.isnan(none.gaps["shared"]) and math.isfinite(none.gaps["all"])
    assert math.isnan(none.closeness["all", "raw"].same) and math.isfinite(none.closeness["all", "raw"].different)
    alone = one.closeness["shared", "raw"]
    assert alone.same > 0.9 and math.isnan(alone.margin) and math.isnan(alone.accuracy) and math.isnan(alone.chance)
    assert all(math.isnan(value) for value in vars(one.closeness["shared", "centred"]).values())
    assert one.closeness["all", "raw"].margin > 0.5 and math.isfinite(one.closeness["all", "centred"].margin)
    notes = what_cannot_be_measured(objects)
    assert [note.split(":")[0] for note in notes] == ["ir-rgb", "ir-sar", "rgb-sar"]
    assert "one concept is shared (car)" in notes[0] and "no concept is shared (rgb: car, ship; sar: tank)" in notes[2]
    assert to_record(none)["shared"]["raw"]["margin"] is None and to_record(none)["shared_concepts"] == []


def test_two_shared_concepts_are_opposite_once_centred_which_is_said() -> None:
    objects = planted(0, dict.fromkeys((Sensor.RGB, Sensor.IR), ("car", "ship")), 0.5)
    centred = measure_pairs(objects)["ir-rgb"].closeness["shared", "centred"]
    assert centred.different == pytest.approx(-centred.same)
    assert "opposite by construction" in what_cannot_be_measured(objects)[0]


def test_features_without_any_difference_have_no_direction_once_centred() -> None:
    flat = Objects(np.full((6, 3), 0.1, np.float32), ("car", "ship", "tank") * 2, np.arange(6))
    pair = measure_pairs({Sensor.RGB: flat, Sensor.IR: flat})["ir-rgb"]
    assert pair.closeness["shared", "raw"].same == pytest.approx(1)
    assert all(math.isnan(value) for value in vars(pair.closeness["shared", "centred"]).values())


def test_an_object_that_is_as_near_to_all_is_no_hit() -> None:
    known = Objects(np.array([[1, 0], [0, 1]], np.float32), ("car", "ship"), np.arange(2))
    asked = Objects(np.array([[0, 0], [1, 0], [0, 1]], np.float32), ("car", "car", "ship"), np.arange(3))
    assert measure_pairs({Sensor.IR: asked, Sensor.RGB: known})["ir-rgb"].closeness["shared", "raw"].forward == 0.75


def test_means_are_over_the_pairs_that_can_be_measured() -> None:
    concepts: dict[Sensor, Any] = {Sensor.RGB: THREE, Sensor.SAR: ("bridge",), Sensor.IR: THREE}
    pairs = measure_pairs(planted(0, concepts, 0.8))
    mean = pair_means(pairs)
    assert mean.closeness["shared", "raw"] == pairs["ir-rgb"].closeness["shared", "raw"]
    assert mean.gaps["all"] == pytest.approx(sum(pair.gaps["all"] for pair in pairs.values()) / 3)
    assert mean.concepts["shared"] == THREE


def test_the_matrix_holds_the_cosine_of_every_two_centroids() -> None:
    objects = planted(2, MIXED, 0.5, offset=0.4, count=5, channels=6)
    for form in FORMS:
        keys, found = centroid_cosines(objects, form)
        assert [key[1] for key in keys] == sorted(key[1] for key in keys) and len(keys) == 11
        centres = {key: np.array(mean_of(rows_of(objects[key[0]], key[1]))) for key in keys}
        if form == "centred":
            means = {s: np.mean([centres[key] for key in keys if key[0] is s], 0) for s in Sensor}
            centres = {key: centre - means[key[0]] for key, centre in centres.items()}
        for row, a in enumerate(keys):
            for column, b in enumerate(keys):
                assert found[row, column] == pytest.approx(cosine(centres[a], centres[b]), abs=1e-9)
