"""What the command writes is held against the annotation files, which are read here by other means."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from babelrs.errors import run_command
from babelrs.sensors import Sensor
from tests.train.builders import coco, dota_line, write_sar, write_text_image
from train.data.samples import Sample
from train.instruct.__main__ import main
from train.instruct.concepts import CONCEPTS, SENSOR_WORDS, concept_of, plural
from train.instruct.corpus import read_meta
from train.instruct.questions import TASKS
from train.instruct.rows import parse_row
from train.instruct.write import WritePlan, make_facts

NAMES = {
    "small-vehicle": "car", "large-vehicle": "large vehicle", "ship": "ship", "Car": "car", "Person": "person",
    "Bicycle": "bicycle", "tank": "storage tank", "weather-balloon": "weather balloon", "vehicle": "vehicle",
    "car": "car", "truck": "truck",
}  # fmt: skip
PLURALS = {"cars": "car", "people": "person", "bicycles": "bicycle", "ships": "ship", "storage tanks": "storage tank",
           "large vehicles": "large vehicle", "weather balloons": "weather balloon", "vehicles": "vehicle",
           "trucks": "truck"}  # fmt: skip
BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")
Truth = dict[str, list[tuple[str, bool, list[list[float]]]]]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("release")
    rng = np.random.default_rng(8)
    for sensor, names in (
        (Sensor.RGB, ["small-vehicle", "large-vehicle", "ship", "weather-balloon"]),
        (Sensor.IR, ["Car", "Person", "Bicycle"]),
    ):
        for index in range(12):
            lines = []
            for _ in range(int(rng.integers(0, 9))):
                box = [*rng.uniform(5, 85, 2), *rng.uniform(4, 22, 2), rng.uniform(-1.5, 1.5)]
                lines.append(dota_line(box, str(rng.choice(names)), int(rng.random() < 0.15)))
            write_text_image(root, sensor, "train", f"{sensor}{index}", lines, (80, 100))
    boxes = {f"s{k}.png": [[2.0 + 9 * n, 3.0 + n, 8, 6.5] for n in range(k)] for k in range(6)}
    write_sar(root, "train", coco(boxes, "tank"), (40, 50))
    return root


def hulls(points: np.ndarray) -> list[list[float]]:
    """Around the smallest rectangle that holds the corners: DOTA's quadrilaterals are read as oriented boxes.

    One of its sides lies along a line through two corners; where two such rectangles are equally small, both are given.
    """
    found = []
    for first, second in combinations(points, 2):
        along = (second - first) / max(1e-9, float(np.hypot(*(second - first))))
        frame = np.array([along, [-along[1], along[0]]])
        low, high = (points @ frame.T).min(axis=0), (points @ frame.T).max(axis=0)
        corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])]) @ frame
        found.append((float(np.prod(high - low)), [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]))
    smallest = min(area for area, _ in found)
    return [hull for area, hull in found if area <= smallest * (1 + 1e-6) + 1e-9]


def dota_truth(images: Path) -> Truth:
    """Concept, difficult flag and hull in pixels of every object in its image, by image stem."""
    found: Truth = {}
    for image in images.iterdir():
        path = images.parent / "annfiles" / f"{image.stem}.txt"
        height, width = cv2.imread(str(image), cv2.IMREAD_UNCHANGED).shape[:2]
        found[path.stem] = []
        for line in path.read_text().splitlines():
            fields = line.split()
            if len(fields) >= 9:
                points = np.array(fields[:8], float).reshape(4, 2)
                difficult = len(fields) > 9 and fields[9] != "0"
                box = hulls(points)
                if box[0][0] < width and box[0][1] < height and box[0][2] > 0 and box[0][3] > 0:
                    found[path.stem].append((NAMES[fields[8]], difficult, box))
    return found


def coco_truth(file: Path) -> Truth:
    content = json.loads(file.read_text())
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    names = {category["id"]: NAMES[category["name"]] for category in content["categories"]}
    found: Truth = {stem: [] for stem in stems.values()}
    for note in content["annotations"]:
        x, y, w, h = note["bbox"]
        found[stems[note["image_id"]]].append((names[note["category_id"]], False, [[x, y, x + w, y + h]]))
    return found


def truths(root: Path, split: str = "train") -> dict[str, Truth]:
    dota, drone = ("train", "dota_train") if split == "train" else ("val", "dota_test")
    file = "after_merge_train.json" if split == "train" else "after_merge_test.json"
    return {
        "rgb": dota_truth(root / "DOTA_800pix" / dota / "images"),
        "ir": dota_truth(root / "DroneVehicle" / drone / "png_images"),
        "sar": coco_truth(root / "SARDet_50K/Annotations" / file),
    }


def write(root: Path, out: Path, *more: str) -> dict[str, list[dict[str, Any]]]:
    assert run_command(main, ["--data", str(root), "--out", str(out), *more]) == 0
    return {path.stem: [json.loads(line) for line in path.open()] for path in out.glob("*.jsonl")}


def near(hulls: list[list[float]], scaled: tuple[str, ...], row: dict[str, Any]) -> bool:
    """Whether a box of the 0..1000 scale is a hull, up to rounding."""
    sides = np.array([row["width"], row["height"]] * 2)
    expected = np.clip(np.array(hulls) / sides, 0, 1) * 1000
    return bool((np.abs(expected - np.array(scaled, float)) <= 0.51).all(axis=1).any())


def wrong_answer(task: str, question: str, answer: str, row: dict[str, Any], objects: list[Any]) -> str:
    """Why an answer is not true of the annotations; empty if it is."""
    sure = Counter(name for name, difficult, _ in objects if not difficult)
    blurred = {name for name, difficult, _ in objects if difficult}
    named = {single for many, single in PLURALS.items() if many in question} | {c for c in sure if c in question}
    if task == "counting":
        concept = next(single for many, single in PLURALS.items() if re.search(rf"\b(?<!large ){many}\b", question))
        return "" if answer == str(sure[concept]) and concept not in blurred else f"{concept}: {sure} {blurred}"
    if task == "sensor":
        return "" if answer == SENSOR_WORDS[Sensor(row["sensor"])] else row["sensor"]
    if task == "classification":
        return "" if answer == (", ".join(sorted(sure)) or "none") and blurred <= set(sure) else f"{sure} {blurred}"
    if task == "caption":
        return wrong_caption(answer, row, sure, blurred)
    boxes = BOX.findall(answer if task == "referring" else question)
    if task == "grounding":
        return "" if any(n == answer and near(b, boxes[0], row) for n, d, b in objects if not d) else "no such object"
    concept = answer.split("<ref>")[1].split("</ref>")[0]
    places = [box for name, _, box in objects if name == concept]
    if concept in blurred or concept not in named or len(places) != len(boxes):
        return f"{concept} of {named}: {len(places)} objects"
    matched = all(any(near(place, box, row) for box in boxes) for place in places)
    return "" if matched and answer.startswith(f"<ref>{concept}</ref><box>[[") else "another box"


def wrong_caption(answer: str, row: dict[str, Any], sure: Counter[str], blurred: set[str]) -> str:
    if SENSOR_WORDS[Sensor(row["sensor"])] not in answer:
        return "the sensor"
    if not sure:
        return "" if re.search(r"(showing no|without any) ", answer) and not blurred else "not empty"
    said = re.findall(r"(at least )?(\d+) ([a-z ]+?)(?:,| and |\.| can be)", answer)
    found = {PLURALS.get(name, name): (int(count), bool(least)) for least, count, name in said}
    return "" if found == {name: (count, name in blurred) for name, count in sure.items()} else f"{found} {sure}"


def check(rows: dict[str, list[dict[str, Any]]], known: dict[str, Truth]) -> dict[str, Counter[str]]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for sensor, group in rows.items():
        for row in group:
            parsed = parse_row(json.dumps(row))
            assert parsed.sensor == Sensor(sensor) and len(row["tasks"]) == len(parsed.turns)
            for task, (question, answer) in zip(row["tasks"], parsed.turns, strict=True):
                objects = known[sensor][Path(parsed.images[0]).stem]
                assert not wrong_answer(task, question, answer, row, objects), (row["id"], question, answer)
                seen[sensor][task] += 1
    return seen


def test_every_answer_is_true_of_the_annotations(release: Path, tmp_path: Path) -> None:
    rows = write(release, tmp_path / "out", "--samples", "12", "--absent-share", "0.4")
    seen = check(rows, truths(release))
    assert set(seen) == {"rgb", "ir", "sar"} and all(set(tasks) == set(TASKS) for tasks in seen.values())
    assert sum(sum(tasks.values()) for tasks in seen.values()) > 200
    answers = [row["conversations"][1]["value"] for group in rows.values() for row in group]
    assert {"0", "none", "1", "car", "storage tank", "infrared"} <= set(answers)
    assert any("at least" in answer for answer in answers) and any("without any" in answer for answer in answers)


def test_questions_are_put_in_several_ways_and_never_twice_about_an_image(release: Path, tmp_path: Path) -> None:
    rows = write(release, tmp_path / "out", "--samples", "12")
    by_image = defaultdict(list)
    for group in rows.values():
        for row in group:
            by_image[row["image"]].append(row["conversations"][0]["value"])
    assert all(len(set(asked)) == len(asked) for asked in by_image.values())
    captions = {r["conversations"][0]["value"] for g in rows.values() for r in g if r["tasks"] == ["caption"]}
    assert len(captions) == 4


def test_the_meta_file_and_the_summary_say_what_was_written(release: Path, tmp_path: Path) -> None:
    rows = write(release, tmp_path / "out")
    sets = {item.name: item for item in read_meta(tmp_path / "out/meta.json")}
    assert {name: item.length for name, item in sets.items()} == {f"{s}_train": len(g) for s, g in rows.items()}
    for sensor, group in rows.items():
        assert all((sets[f"{sensor}_train"].root / row["image"]).is_file() for row in group)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["unknown_class_names"].keys() == {"weather-balloon"}
    known = truths(release)
    for sensor, found in summary["objects"].items():
        assert found == Counter(name for objects in known[sensor].values() for name, _, _ in objects)
    assert summary["objects_outside_their_image"] >= 1
    assert summary["rows"] == {sensor: len(group) for sensor, group in rows.items()}


def test_the_seed_decides_and_turns_and_tasks_are_as_asked(release: Path, tmp_path: Path) -> None:
    first, again, other = (
        write(
            release,
            tmp_path / str(n),
            "--seed",
            str(seed),
            "--turns",
            "3",
            "--samples",
            "2",
            "--tasks",
            "counting,referring",
        )
        for n, seed in enumerate((1, 1, 2))
    )
    assert first == again and first != other
    check(first, truths(release))
    assert max(len(row["tasks"]) for group in first.values() for row in group) == 3
    assert {task for group in first.values() for row in group for task in row["tasks"]} == {"counting", "referring"}
    for group in first.values():
        for row in group:
            assert [turn["value"].count("<image>") for turn in row["conversations"][::2]] == [1] + [0] * (
                len(row["tasks"]) - 1
            )


def test_answers_hold_no_more_boxes_than_asked(release: Path, tmp_path: Path) -> None:
    rows = write(release, tmp_path / "out", "--max-boxes", "2", "--tasks", "referring", "--samples", "9")
    boxes = [len(BOX.findall(row["conversations"][1]["value"])) for group in rows.values() for row in group]
    assert set(boxes) == {1, 2}


def test_a_broken_image_is_named_and_left_out(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    image, _ = write_text_image(root, Sensor.IR, "train", "a", [])
    write_text_image(root, Sensor.IR, "train", "b", [])
    image.write_bytes(image.read_bytes()[:50])
    rows = write(root, tmp_path / "out", "--sensors", "ir")
    assert {row["image"] for row in rows["ir"]} == {"DroneVehicle/dota_train/png_images/b.png"}
    assert str(image) in json.loads((tmp_path / "out/summary.json").read_text())["broken_images"][0]


def test_simulated_scenes_are_described_in_the_simulators_words(tmp_path: Path) -> None:
    from train.simulate import main as simulate

    root = tmp_path / "data"
    options = ["--train-scenes", "3", "--eval-scenes", "0", "--size", "320", "--seed", "5"]
    assert run_command(simulate, ["--out", str(root), *options]) == 0
    scenes = {entry["image"]: entry for entry in map(json.loads, (root / "descriptions.jsonl").open())}
    rows = write(root, tmp_path / "out", "--samples", "20")
    known, described = truths(root), 0
    for sensor, group in rows.items():
        for row in group:
            question, answer = (turn["value"] for turn in row["conversations"])
            scene = scenes[row["image"]]
            texts = [entry["text"] for entry in scene["objects"]]
            hit = [index for index, text in enumerate(texts) if row["tasks"] == ["referring"] and text in question]
            if row["tasks"] == ["caption"]:
                assert answer == scene["text"]
            elif hit:
                longest = max(hit, key=lambda index: len(texts[index]))
                name, _, box = known[sensor][Path(row["image"]).stem][longest]
                assert texts.count(texts[longest]) == 1 and answer.startswith(f"<ref>{name}</ref>")
                assert near(box, BOX.findall(answer)[0], row)
                described += 1
            else:
                objects = known[sensor][Path(row["image"]).stem]
                assert not wrong_answer(row["tasks"][0], question, answer, row, objects), (question, answer)
    assert described > 5


@pytest.mark.parametrize(("kinds", "used"), [(["car", "ship"], True), (["ship", "car"], False), (["car"], False)])
def test_descriptions_that_do_not_fit_the_labels_are_left_out(kinds: list[str], used: bool) -> None:
    boxes = np.array([[10, 10, 6, 4, 0], [30, 30, 6, 4, 0]], np.float32)
    sample = Sample(Path("a.png"), Sensor.RGB, boxes, ("car", "ship"), np.zeros(2, bool))
    description = {"text": "Words.", "objects": [{"class": kind, "text": f"a {kind}"} for kind in kinds]}
    facts = make_facts(sample, (40, 40), ("car", "ship"), WritePlan(), description)
    assert facts.texts == (("a car", "a ship") if used else ()) and facts.caption == "Words."


@pytest.mark.realdata
@pytest.mark.parametrize("split", ["train", "eval"])
def test_answers_about_real_images_are_true(shared_data: Path, tmp_path: Path, split: str) -> None:
    root = shared_data / "soi-mini"
    seen = check(write(root, tmp_path / "out", "--split", split), truths(root, split))
    assert set(seen) == {"rgb", "ir", "sar"}
    assert all(tasks[task] > 20 for tasks in seen.values() for task in TASKS)


def test_concepts_are_shared_by_the_sensors_and_can_be_changed(release: Path, tmp_path: Path) -> None:
    assert {concept_of(name) for name in ("Car", "small-vehicle", "car", "small_vehicle")} == {"car"}
    assert {concept_of(name) for name in ("plane", "aircraft", "Airplane")} == {"aircraft"}
    assert concept_of("Odd-Thing here") == "odd thing here"
    assert all(concept_of(concept) == concept for concept in CONCEPTS.values() if concept in CONCEPTS)
    assert [plural(word) for word in ("bus", "person", "ferry", "bridge", "aircraft")] == [
        "buses", "people", "ferries", "bridges", "aircraft",
    ]  # fmt: skip
    table = tmp_path / "concepts.yaml"
    table.write_text("Weather-Balloon: balloon\n")
    write(release, tmp_path / "out", "--concepts", str(table))
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert "balloon" in summary["objects"]["rgb"] and summary["unknown_class_names"] == {}


def test_wrong_arguments_are_listed_at_once_and_nothing_is_written(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    wrong = ["--samples", "0", "--tasks", "counting,poetry", "--absent-share", "2", "--out", str(tmp_path / "full")]
    assert run_command(main, ["--data", str(release), *wrong]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("--samples 0", "'poetry'", "--absent-share 2", "is not empty"))
    table = tmp_path / "c.yaml"
    for text in ("- a", "a: 3", "{"):
        table.write_text(text)
        out = ["--out", str(tmp_path / "new"), "--concepts", str(table)]
        assert run_command(main, ["--data", str(release), *out]) == 2
    assert not (tmp_path / "new").exists()
