"""The official MIPI score against formulas written here from its definition, in exact fractions, on random submissions.

The submissions are shuffled and partial, speak of pictures that the reference does not hold, use other question types,
other fields for the coordinates, boxes of three or five coordinates, "No distortion" on either side, and letters that
no candidate has.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tasks.rewards.metrics import SIX, score_submission

Document = dict[str, Any]
Files = dict[str, list[Document]]

NUM_SUBMISSIONS = 1_000
NAMES = ("Noise", "Low clarity", "Motion blur", "Blocking artifacts", "No distortion")
PLACES = ([0, 0, 500, 500], [500, 0, 1000, 500], [0, 0, 1000, 1000], [250, 250, 750, 750], [0, 0, 0, 500])
REGION, DETECTION = "region-perception", "distortion-detection"


# ------------------------------------------------------------------------------------------------------ the definition
def overlap(a: list[int], b: list[int]) -> Fraction:
    """Intersection over union of two boxes of whole numbers; 0 for two points or lines."""

    def area(x1: int, y1: int, x2: int, y2: int) -> int:
        return max(0, x2 - x1) * max(0, y2 - y1)

    shared = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - shared
    return Fraction(shared, union) if union else Fraction(0)


def mean_average_precision(gold: list[tuple], predicted: list[tuple]) -> Fraction:
    """gold, predicted: (picture, name, box). Predictions rank by picture, in the order of their first boxes."""
    if not gold or not predicted:
        return Fraction(0)
    pictures = list(dict.fromkeys(picture for picture, _, _ in predicted))
    classes = {name for _, name, _ in (*gold, *predicted)}
    total = Fraction(0)
    for wanted in classes:
        golds = [(picture, box) for picture, name, box in gold if name == wanted]
        mine = [(picture, box) for picture, name, box in predicted if name == wanted]
        ranked = sorted(mine, key=lambda entry: pictures.index(entry[0]))  # stable
        found: set[int] = set()
        points = []  # (golds found, precision) after each prediction
        for rank, (picture, box) in enumerate(ranked, start=1):
            overlaps = {i: overlap(box, other) for i, (where, other) in enumerate(golds) if where == picture}
            best = max(overlaps, key=lambda i: overlaps[i], default=None)
            if best is not None and overlaps[best] >= Fraction(1, 2):
                found |= {best}
            points.append((len(found), Fraction(len(found), rank)))
        for step in range(1, len(golds) + 1):  # precision at the recall of every gold, interpolated from the right
            reached = [precision for num_found, precision in points if num_found >= step]
            total += max(reached, default=Fraction(0)) / len(golds)
    return total / len(classes)


def listed(items: list[Document], field: str, *fields: str, lower: bool = False) -> list[tuple]:
    """(picture, name, box) of all entries with four coordinates."""
    boxes = []
    for item in items:
        for entry in item[field]:
            box = next((entry[name] for name in ("coordinates", *fields) if entry.get(name)), [])
            name = entry["distortion"]
            if len(box) == 4:
                boxes.append((item["image"], name.lower().replace("_", " ").strip() if lower else name, box))
    return boxes


def perception(files: Files) -> Fraction:
    if len(files["perception"]) != len(files["mcq"]) or not files["mcq"]:
        return Fraction(0)
    answers = sorted(files["perception"], key=lambda item: item["id"])
    questions = sorted(files["mcq"], key=lambda item: item["id"])
    letters = ["ABCDEFGHIJKLMNOPQRSTUVWXYZ".find((item["pred_ans"].strip() + "?")[0]) for item in answers]
    if any(not 0 <= letter < len(item["candidates"]) for letter, item in zip(letters, answers, strict=True)):
        return Fraction(0)
    chosen = [item["candidates"][letter] for letter, item in zip(letters, answers, strict=True)]
    right = [text == item["correct_ans"] for text, item in zip(chosen, questions, strict=True)]
    return Fraction(sum(right), len(right))


def key_accuracy(files: Files) -> Fraction:
    """Precision of predicted key distortions; one that cannot be placed and has the right name ends the count at 0."""
    pictures = {item["image"]: item["distortions"] for item in files["metadata"]}
    judged = []
    for item in files["description"]:
        golds = pictures.get(item["image"]) or []
        top = max((d.get("significance_score", 0) for d in golds), default=None)
        keys = [d for d in golds if d.get("significance_score", 0) == top]
        for entry in item["key_distortions"] if golds else ():
            said = entry["distortion"].lower().replace("_", " ").strip()
            named = [d for d in keys if d["distortion"].lower() == said]
            if named and (len(entry["coordinates"]) < 4 or any(len(d["coordinates"]) < 4 for d in named)):
                return Fraction(0)
            judged.append(any(overlap(entry["coordinates"][:4], d["coordinates"]) > Fraction(1, 2) for d in named))
    return Fraction(sum(judged), len(judged)) if judged else Fraction(0)


def level_accuracy(files: Files) -> Fraction:
    levels = {item["image"]: item["level"] for item in files["metadata"]}
    right = [levels[i["image"]] == i["image_quality"] for i in files["description"] if i["image"] in levels]
    return Fraction(sum(right), len(right)) if right else Fraction(0)


def by_definition(files: Files) -> dict[str, Fraction]:
    def affected(boxes: list[tuple]) -> list[tuple]:
        return [box for box in boxes if box[1] != "No distortion"]

    others = ("pred_coords", "coords")
    regions = [item for item in files["grounding"] if item.get("question_type", REGION) == REGION]
    typed = [item for item in files["grounding"] if item.get("question_type") in (REGION, DETECTION)]
    metadata = files["metadata"]
    six = {
        "perception_accuracy": perception(files),
        "region_map": mean_average_precision(
            affected(listed(files["regions"], "distortions")), affected(listed(regions, "distortions", *others))
        ),
        "distortion_map": mean_average_precision(
            listed(metadata, "distortions"), listed(typed, "distortions", *others)
        ),
        "description_map": mean_average_precision(
            listed(metadata, "distortions", lower=True), listed(files["description"], "all_distortions", lower=True)
        ),
        "key_distortion_accuracy": key_accuracy(files),
        "image_quality_accuracy": level_accuracy(files),
    }
    return {**six, "composite": sum(six.values(), Fraction(0))}


# ----------------------------------------------------------------------------------------------------- random documents
def reference_files(rng: random.Random) -> Files:
    metadata, regions, mcq = [], [], []
    for number in range(rng.randint(1, 6)):
        image = f"p{number}.png"
        distortions = [
            {
                "distortion": name,
                "coordinates": [] if name == "No distortion" and rng.random() < 0.5 else rng.choice(PLACES),
                **({} if rng.random() < 0.2 else {"significance_score": rng.randint(0, 2)}),
            }
            for name in rng.choices(NAMES, (4, 4, 4, 4, 1), k=rng.randint(0, 3))
        ]
        metadata.append({"image": image, "level": rng.choice(["poor", "fair"]), "mos": 3.0, "distortions": distortions})
        regions += [{"id": len(regions), "image": image, "distortions": [entry]} for entry in distortions]
    for number in range(rng.randint(0, 8)):
        candidates = rng.sample(NAMES, rng.randint(2, 4))
        mcq.append({"id": number, "image": "p0.png", "candidates": candidates, "correct_ans": rng.choice(candidates)})
    rng.shuffle(mcq)
    return {"metadata": metadata, "regions": regions, "mcq": mcq}


def spoilt(rng: random.Random, entries: list[Document], error: float) -> list[Document]:
    """Entries with some names, boxes and fields changed, some left out, some added."""
    said = []
    for entry in (*entries, *({"distortion": rng.choice(NAMES)} for _ in range(rng.random() < error))):
        if rng.random() < error / 2:
            continue
        name = rng.choice(NAMES) if rng.random() < error else entry["distortion"]
        box = list(entry.get("coordinates") or rng.choice(PLACES))
        if rng.random() < error:
            box = [value + rng.randint(0, 300) for value in box]
        if rng.random() < error / 3:
            box = rng.choice([box[:3], [*box, 7], []])
        said.append({"distortion": name, "coordinates": box})
    return said


def elsewhere(rng: random.Random, entries: list[Document]) -> list[Document]:
    """The coordinates of some under the other names that the scorer reads in grounding answers."""
    moved = []
    for entry in entries:
        field = rng.choice(["coordinates", "coordinates", "pred_coords", "coords"])
        empty = {} if field == "coordinates" or rng.random() < 0.5 else {"coordinates": rng.choice([None, []])}
        moved.append({"distortion": entry["distortion"], **empty, field: entry["coordinates"]})
    return moved


def submission_files(rng: random.Random, reference: Files) -> Files:
    error, silence, strangers = rng.choice([0.0, 0.2, 0.7]), rng.choice([0.0, 0.3, 0.8]), rng.choice([0.0, 0.3])

    def image(item: Document) -> str:
        return f"foreign{rng.randint(0, 1)}.png" if rng.random() < strangers else item["image"]

    def spoken(items: list[Document]) -> list[Document]:
        kept = [item for item in items if rng.random() >= silence]
        rng.shuffle(kept)
        return kept

    grounding: list[Document] = []
    for kind, items in ((REGION, reference["regions"]), (DETECTION, reference["metadata"])):
        for item in spoken(items):
            entries = elsewhere(rng, spoilt(rng, item["distortions"], error))
            odd = rng.random() < error / 2
            others: list[Document] = [{}, {"question_type": None}, {"question_type": "other"}]
            typed = rng.choice(others) if odd else {"question_type": kind}
            grounding.append({"image": image(item), "distortions": entries, **typed})
    rng.shuffle(grounding)
    description = [
        {
            "image": image(item),
            "all_distortions": spoilt(rng, item["distortions"], error),
            "key_distortions": spoilt(rng, item["distortions"], error)[:2],
            "image_quality": rng.choice(["poor", "fair", "unknown"]) if rng.random() < error else item["level"],
        }
        for item in spoken(reference["metadata"])
    ]
    for entry in (e for item in description for e in item["all_distortions"] if rng.random() < 0.3):
        entry["distortion"] = f" {entry['distortion'].upper().replace(' ', '_')}"
    perception = []
    for item in reference["mcq"]:
        right = "ABCD"[item["candidates"].index(item["correct_ans"])]
        letter = rng.choice("ABCD"[: len(item["candidates"])]) if rng.random() < error else right
        letter = rng.choice("Eb") if rng.random() < 0.02 else letter
        perception.append({**item, "pred_ans": rng.choice([letter, f" {letter}. so"])})
    if rng.random() < silence / 3:
        perception = perception[1:]
    rng.shuffle(perception)
    return {"perception": perception, "grounding": grounding, "description": description}


FILE_NAMES = {
    "metadata": "reference/bench_metadata.json",
    "regions": "reference/reg-p_bench.json",
    "mcq": "reference/mcq.json",
    "perception": "submission/perception.json",
    "grounding": "submission/grounding.json",
    "description": "submission/description.json",
}


@pytest.fixture
def scored(tmp_path: Path) -> Callable[[Files], dict[str, float]]:
    (tmp_path / "reference").mkdir()
    (tmp_path / "submission").mkdir()

    def score(files: Files) -> dict[str, float]:
        for name, file in FILE_NAMES.items():
            (tmp_path / file).write_text(json.dumps(files[name]))
        return score_submission(tmp_path / "submission", tmp_path / "reference")

    return score


def test_random_submissions_score_as_defined(scored: Callable[[Files], dict[str, float]]) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for seed in range(NUM_SUBMISSIONS):
        rng = random.Random(seed)
        reference = reference_files(rng)
        files = {**reference, **submission_files(rng, reference)}
        found, defined = scored(files), by_definition(files)
        for metric in (*SIX, "composite"):
            assert found[metric] == pytest.approx(float(defined[metric]), abs=1e-12), (seed, metric)
            seen[metric, 0 < defined[metric] < (6 if metric == "composite" else 1)] += 1
    assert all(seen[metric, True] > NUM_SUBMISSIONS / 10 for metric in (*SIX, "composite")), seen  # not all 0 or 1


# --------------------------------------------------------------------------------------------------------- worked cases
def files_of(**changes: list[Document]) -> Files:
    return {**{name: [] for name in FILE_NAMES}, **changes}


def noise(place: int = 0, **fields: Any) -> Document:
    return {"distortion": "Noise", "coordinates": PLACES[place], **fields}


def found_in(image: str, *entries: Document, kind: str = DETECTION) -> Document:
    return {"image": image, "question_type": kind, "distortions": list(entries)}


def picture(image: str, *entries: Document) -> Document:
    return {"image": image, "level": "fair", "mos": 3.0, "distortions": list(entries)}


def test_silence_is_a_miss(scored: Callable[[Files], dict[str, float]]) -> None:
    """One picture of ten: the other nine are missed, in both maps."""
    described = {"image": "p0", "all_distortions": [noise()], "key_distortions": [noise()], "image_quality": "fair"}
    files = files_of(
        metadata=[picture(f"p{i}", noise()) for i in range(10)],
        grounding=[found_in("p0", noise())],
        description=[described],
    )
    metrics = scored(files)
    assert metrics["distortion_map"] == metrics["description_map"] == pytest.approx(0.1)
    assert metrics["key_distortion_accuracy"] == metrics["image_quality_accuracy"] == 1.0  # precisions, officially
    assert metrics["key_distortion_recall"] == pytest.approx(0.1)


def test_silent_opinion_scores_stand_in_the_middle(scored: Callable[[Files], dict[str, float]], tmp_path: Path) -> None:
    (tmp_path / "submission" / "scoring.json").write_text(json.dumps([{"image": "p0", "pred_mos": 1.5}]))
    metrics = scored(files_of(metadata=[{**picture("p0"), "mos": 1.5}, {**picture("p1"), "mos": 5.0}]))
    assert metrics["mos_rmse"] == pytest.approx((2.0**2 / 2) ** 0.5)


def test_the_order_is_the_submissions(scored: Callable[[Files], dict[str, float]]) -> None:
    """A false box counts before the true one where the submission has its picture first."""
    files = files_of(
        metadata=[picture("p0", noise()), picture("p1", noise())],
        grounding=[found_in("p1", noise(1)), found_in("p0", noise())],
    )
    assert scored(files)["distortion_map"] == pytest.approx(1 / 2 * 1 / 2)
    files["grounding"].reverse()
    assert scored(files)["distortion_map"] == pytest.approx(1 / 2)


def test_a_picture_has_its_place_from_its_first_box_that_counts(scored: Callable[[Files], dict[str, float]]) -> None:
    files = files_of(
        regions=[{"image": "p0", "distortions": [noise()]}],
        grounding=[
            found_in("p0", {"distortion": "No distortion", "coordinates": PLACES[0]}, kind=REGION),
            found_in("p1", noise(), kind=REGION),
            found_in("p0", noise(), kind=REGION),
        ],
    )
    assert scored(files)["region_map"] == pytest.approx(1 / 2)


def test_boxes_about_foreign_pictures_are_false(scored: Callable[[Files], dict[str, float]]) -> None:
    files = files_of(
        metadata=[picture("p0", noise())], grounding=[found_in("foreign", noise()), found_in("p0", noise())]
    )
    assert scored(files)["distortion_map"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("typed", "in_regions", "in_distortions"),
    [
        ({"question_type": REGION}, 1.0, 1.0),
        ({"question_type": DETECTION}, 0.0, 1.0),
        ({}, 1.0, 0.0),
        ({"question_type": None}, 0.0, 0.0),
        ({"question_type": "grounding"}, 0.0, 0.0),
    ],
)
def test_the_question_type_says_where_boxes_count(
    scored: Callable[[Files], dict[str, float]], typed: Document, in_regions: float, in_distortions: float
) -> None:
    files = files_of(
        metadata=[picture("p0", noise())],
        regions=[{"image": "p0", "distortions": [noise()]}],
        grounding=[{"image": "p0", "distortions": [noise()], **typed}],
    )
    metrics = scored(files)
    assert (metrics["region_map"], metrics["distortion_map"]) == (in_regions, in_distortions)


def test_no_distortion_in_the_metadata_is_a_class(scored: Callable[[Files], dict[str, float]]) -> None:
    files = files_of(
        metadata=[picture("p0", noise(), {"distortion": "No distortion", "coordinates": PLACES[1]})],
        grounding=[found_in("p0", noise())],
        description=[{"image": "p0", "all_distortions": [noise()], "key_distortions": [], "image_quality": "fair"}],
    )
    metrics = scored(files)
    assert (metrics["distortion_map"], metrics["description_map"]) == (0.5, 0.5)


@pytest.mark.parametrize("field", ["pred_coords", "coords"])
def test_grounding_reads_other_fields_for_the_coordinates(
    scored: Callable[[Files], dict[str, float]], field: str
) -> None:
    elsewhere = {"distortion": "Noise", "coordinates": [], field: PLACES[0]}
    files = files_of(
        metadata=[picture("p0", noise())],
        grounding=[found_in("p0", elsewhere)],
        description=[{"image": "p0", "all_distortions": [elsewhere], "key_distortions": [], "image_quality": "fair"}],
    )
    metrics = scored(files)
    assert (metrics["distortion_map"], metrics["description_map"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "metric", "said"),
    [
        ({"perception": [{"id": 0, "candidates": ["a"], "pred_ans": "A"}]}, "perception_accuracy", "1 answers to 0"),
        ({"grounding": [{"question_type": DETECTION, "distortions": [noise()]}]}, "distortion_map", "image is missing"),
        ({"grounding": [found_in("p0", noise(distortion=7))]}, "distortion_map", "the distortion 7 is no text"),
        ({"grounding": [found_in("p0", noise(coordinates=["a"] * 4))]}, "distortion_map", "not four numbers"),
        ({"description": [{"image": "p0", "all_distortions": None}]}, "description_map", "no list of objects"),
    ],
)
def test_what_makes_a_metric_zero_is_named(
    scored: Callable[[Files], dict[str, float]],
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, list[Document]],
    metric: str,
    said: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert scored(files_of(metadata=[picture("p0", noise())], **changes))[metric] == 0.0
    assert any(metric in record.getMessage() and said in record.getMessage() for record in caplog.records), caplog.text
