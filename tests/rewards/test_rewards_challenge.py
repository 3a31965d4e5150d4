"""The MIPI metrics: worked values, the official files, the official traps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_contracts.records import CHOICE_KINDS, DISTORTIONS, LEVELS, SEVERITIES
from tasks.rewards.examples import box_text
from tasks.rewards.metrics import SIX, correlations, mipi, score_submission
from tasks.rewards.metrics.documents import documents_of, write_documents


def row(sub_task: str, problem_type: str, gold: str, answer: str | None, sample: str = "s0", **fields: Any) -> dict:
    return {
        "question_id": f"{sample}-{sub_task}",
        "sample_id": sample,
        "media_path": f"/media/{sample}.png",
        "source_photograph": sample[:2],
        "sub_task": sub_task,
        "kind": sub_task,
        "problem_type": problem_type,
        "question": "?",
        "options": [],
        "gold": gold,
        "answer": answer,
        **fields,
    }


def choice(gold: str, answer: str | None, kind: str = "type", sample: str = "s0") -> dict:
    return row("mcq", "choice", gold, answer, sample, kind=kind, options=["Noise", "Low clarity", "Motion blur"])


def region(phrase: str, answer: str | None, box: tuple[int, int, int, int] = (0, 0, 9, 9), sample: str = "s0") -> dict:
    asked = "What distortion affects this region <|box_start|>({},{}),({},{})<|box_end|>?".format(*box)
    return row("reg_perception", "region", phrase, answer, sample, question=asked)


def description(boxes: str, key: str, level: str) -> str:
    lines = ("A picture.", f"Distortions: {boxes}", f"Overall: so; key distortions: {key}")
    return "\n".join((*lines, f"Thus, the quality of the image is {level}."))


def evaluation_rows(seed: int, error: float, photographs: int = 6) -> list[dict]:
    """Rows of every sub-task, whose answers are wrong with a given probability."""
    rng = np.random.default_rng(seed)
    places = [(0, 0, 500, 500), (500, 0, 1000, 500), (0, 0, 1000, 1000), (250, 250, 750, 750)]

    def listed(distortions: list[tuple[str, str, tuple[int, int, int, int]]]) -> str:
        return ", ".join(box_text(f"{s} {d.lower()}", b) for s, d, b in distortions) or "No distortion."

    def spoilt(distortions: list) -> list:
        return [
            (s, str(rng.choice(DISTORTIONS)) if rng.random() < error else d, b)
            for s, d, b in distortions
            if rng.random() > error / 2
        ]

    rows = []
    for sample in (f"p{i}c{j}" for i in range(photographs) for j in range(3)):
        true = [
            (str(rng.choice(SEVERITIES)), str(name), places[rng.integers(4)])
            for name in rng.choice(DISTORTIONS, rng.integers(0, 4), replace=False)
        ]
        said, level = spoilt(true), str(rng.choice(LEVELS))
        guess = "fair" if rng.random() < error else level
        mos = float(rng.uniform(1, 5))
        rows.append(row("dist_detect", "detection", listed(true), listed(said), sample))
        rows.append(
            row(
                "assess",
                "description",
                description(listed(true), listed(true[:1]), level),
                description(listed(said), listed(said[:1]), guess),
                sample,
            )
        )
        rows.append(row("score", "mos", f"{mos:.2f}", f"{mos + rng.normal() * error:.2f}", sample))
        rows += [
            region(f"{s} {d.lower()}", "Minor noise" if rng.random() < error else f"{s} {d}", b, sample)
            for s, d, b in true
        ]
        for kind in CHOICE_KINDS:
            gold = "ABC"[rng.integers(3)]
            rows.append(choice(gold, None if rng.random() < error / 4 else "ABC"[rng.integers(3)], kind, sample))
    return rows


def test_perfect_answers_reach_the_maximum() -> None:
    rows = [r | {"answer": r["gold"]} for r in evaluation_rows(0, 0.5) if r["sub_task"] != "reg_perception"]
    rows += [
        region("Minor noise", "Minor noise", sample="region"),
        region("No distortion affects this region.", "none"),
    ]
    metrics = mipi(rows)
    assert {name: metrics[name] for name in SIX} == dict.fromkeys(SIX, 1.0)
    assert metrics["composite"] == 6.0
    assert metrics["mos_srcc"] == pytest.approx(1.0)
    assert metrics["mos_rmse"] == 0.0


def test_no_rows_are_zero_of_six() -> None:
    assert mipi([]) == dict.fromkeys([*SIX, "composite"], 0.0)


def test_choice_accuracy_per_kind() -> None:
    metrics = mipi(
        [choice("B", "B"), choice("B", "A"), choice("C", "(C) motion blur", "severity"), choice("C", None, "severity")]
    )
    assert metrics["perception_accuracy"] == 0.5
    assert metrics["choice_accuracy/type"] == 0.5
    assert metrics["choice_accuracy/severity"] == 0.5


def test_region_map_reads_the_phrase_on_the_box_of_the_question() -> None:
    assert mipi([region("Minor noise", "Severe noise")])["region_map"] == 1.0  # severity is not part of the class
    assert mipi([region("Minor noise", "Minor motion blur")])["region_map"] == 0.0
    assert mipi([region("Minor noise", None)])["region_map"] == 0.0
    assert (
        mipi(
            [
                region("No distortion affects this region.", "No distortion"),
                region("Minor noise", "noise", (0, 0, 5, 5)),
            ]
        )["region_map"]
        == 1.0
    )


def test_distortion_map_counts_region_answers_too() -> None:
    noise = box_text("Minor noise", (0, 0, 9, 9))
    rows = [row("dist_detect", "detection", noise, noise), region("Minor noise", "Minor noise")]
    other = row("dist_detect", "detection", noise, noise, "s1")
    both = mipi([*rows, other])
    # true (region), false (the same box again), true: 1/2 * 1 + 1/2 * 2/3
    assert both["distortion_map"] == pytest.approx(0.5 + 1 / 3)
    assert both["detection_map"] == 1.0


def test_answers_count_in_the_order_of_the_rows() -> None:
    """A picture's false box comes before another's true one where its row does."""
    noise, elsewhere = box_text("Minor noise", (0, 0, 9, 9)), box_text("Minor noise", (50, 50, 90, 90))
    rows = [
        row("dist_detect", "detection", noise, elsewhere, "s0"),
        row("dist_detect", "detection", noise, noise, "s1"),
    ]
    assert mipi(rows)["distortion_map"] == pytest.approx(1 / 4)
    assert mipi(rows[::-1])["distortion_map"] == pytest.approx(1 / 2)
    asked = [*rows, region("Minor noise", "Minor noise"), rows[0] | {"question_id": "again"}]
    kinds = [item["question_type"] for item in documents_of(asked)[0].grounding]
    assert kinds == ["distortion-detection", "distortion-detection", "region-perception", "distortion-detection"]


def test_a_question_without_an_answer_is_a_miss() -> None:
    noise = box_text("Minor noise", (0, 0, 9, 9))
    told = description(noise, noise, "fair")
    rows = [row("dist_detect", "detection", noise, noise if i == 0 else None, f"s{i}") for i in range(10)]
    rows += [row("assess", "description", told, told if i == 0 else None, f"s{i}") for i in range(10)]
    metrics = mipi(rows)
    for name in ("distortion_map", "detection_map", "description_map", "image_quality_accuracy"):
        assert metrics[name] == pytest.approx(0.1), name


def test_key_distortions_are_a_precision_with_the_recall_beside_it() -> None:
    a, b = box_text("Minor noise", (0, 0, 500, 500)), box_text("Severe motion blur", (500, 500, 900, 900))
    gold = description(f"{a}, {b}", f"{a}, {b}", "fair")
    metrics = mipi([row("assess", "description", gold, description(f"{a}, {b}", a, "poor"))])
    assert metrics["key_distortion_accuracy"] == 1.0
    assert metrics["key_distortion_recall"] == 0.5
    assert metrics["description_map"] == 1.0
    assert metrics["image_quality_accuracy"] == 0.0


def test_key_distortion_needs_more_than_half_overlap() -> None:
    gold = description(box_text("Minor noise", (0, 0, 10, 10)), box_text("Minor noise", (0, 0, 10, 10)), "fair")
    half = description(box_text("Minor noise", (0, 0, 10, 5)), box_text("Minor noise", (0, 0, 10, 5)), "fair")
    metrics = mipi([row("assess", "description", gold, half)])
    assert metrics["key_distortion_accuracy"] == 0.0  # IoU > .5
    assert metrics["description_map"] == 1.0  # IoU >= .5


def test_unread_opinion_scores_stand_in_the_middle() -> None:
    rows = [
        row("score", "mos", gold, answer, f"s{i}") for i, (gold, answer) in enumerate([("1.00", None), ("5.00", "99")])
    ]
    metrics = mipi(rows)
    assert metrics["mos_rmse"] == pytest.approx(np.sqrt((2.0**2 + 0) / 2))
    assert metrics["mos_plcc"] == pytest.approx(1.0)


@pytest.mark.parametrize("error", [0.0, 0.3, 0.9])
def test_files_read_back_reproduce_the_metrics_exactly(error: float, tmp_path: Path) -> None:
    rows = evaluation_rows(7, error)
    submission, reference = documents_of(rows)
    write_documents(submission, tmp_path / "submission")
    write_documents(reference, tmp_path / "reference")
    assert score_submission(tmp_path / "submission", tmp_path / "reference") == mipi(rows)


def test_the_exporter_avoids_the_official_traps(tmp_path: Path) -> None:
    noise = box_text("moderate blocking artifact", (0, 0, 9, 9))
    rows = [
        choice("B", "no idea"),
        choice("B", "b\n"),
        choice("B", ""),
        region("Minor noise", "No distortion affects this region."),
        row("dist_detect", "detection", noise, f"{noise}, {box_text('Severe glare', (0, 0, 5, 5))}\n"),
    ]
    submission, reference = documents_of(rows)
    write_documents(submission, tmp_path)
    perception = json.loads((tmp_path / "perception.json").read_text())
    for item in perception:
        index = ord(item["pred_ans"][0]) - ord("A")
        assert 0 <= index < len(item["candidates"])
    assert len(perception) == len(reference.mcq)
    assert perception[0]["candidates"][-1] == "No answer"
    assert mipi(rows)["perception_accuracy"] == pytest.approx(1 / 3)  # one unread answer did not zero the metric
    grounding = json.loads((tmp_path / "grounding.json").read_text())
    assert {item["question_type"] for item in grounding} == {"region-perception", "distortion-detection"}
    assert [d["distortion"] for item in grounding for d in item["distortions"]] == ["Blocking artifacts"]


def test_what_the_official_scorer_zeroes_is_zero_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    submission, reference = documents_of([choice("B", "B"), choice("C", "C")])
    write_documents(reference, tmp_path / "reference")
    submission.perception[1]["pred_ans"] = "c"
    write_documents(submission, tmp_path / "bad")
    assert score_submission(tmp_path / "bad", tmp_path / "reference")["perception_accuracy"] == 0.0
    assert "item 1, picture s0.png: 'c' is no capital letter of its candidates" in caplog.text
    submission.perception.pop()
    write_documents(submission, tmp_path / "short")
    assert score_submission(tmp_path / "short", tmp_path / "reference")["perception_accuracy"] == 0.0
    assert "1 answers to 2 questions" in caplog.text


def test_foreign_files_are_scored_by_the_official_rules(tmp_path: Path) -> None:
    """A "No distortion" box is a class of AP 0 in the distortion mAP only; items without a type are regions only."""
    noise = box_text("Minor noise", (0, 0, 9, 9))
    submission, reference = documents_of(
        [row("dist_detect", "detection", noise, noise), region("Minor noise", "Minor noise")]
    )
    write_documents(reference, tmp_path / "reference")
    negative = {"distortion": "No distortion", "severity": "", "coordinates": [0, 0, 5, 5]}
    for item in submission.grounding:
        item["distortions"].append(negative)
    write_documents(submission, tmp_path / "negative")
    metrics = score_submission(tmp_path / "negative", tmp_path / "reference")
    assert (metrics["region_map"], metrics["distortion_map"]) == (1.0, 0.5)
    for item in submission.grounding:
        item["distortions"].pop()
        if item["question_type"] == "region-perception":
            del item["question_type"]
            item["distortions"][0]["coordinates"] = [50, 50, 90, 90]
    write_documents(submission, tmp_path / "untyped")
    metrics = score_submission(tmp_path / "untyped", tmp_path / "reference")
    assert (metrics["region_map"], metrics["distortion_map"]) == (0.0, 1.0)
    submission.grounding[0]["distortions"][0]["distortion"] = "noise"
    write_documents(submission, tmp_path / "lower")
    assert score_submission(tmp_path / "lower", tmp_path / "reference")["distortion_map"] == 0.0


def test_pictures_that_share_a_file_name_are_kept_apart() -> None:
    noise = box_text("Minor noise", (0, 0, 9, 9))
    rows = [
        row("dist_detect", "detection", noise, noise, "s0", media_path="/a/x.png"),
        row("dist_detect", "detection", "No distortion.", "No distortion.", "s1", media_path="/b/x.png"),
    ]
    assert {item["image"] for item in documents_of(rows)[0].grounding} == {"s0", "s1"}


def test_a_question_asked_in_free_form_is_no_item_of_the_official_files() -> None:
    noise = box_text("Minor noise", (0, 0, 9, 9))
    rows = [row(sub_task, "free_form", "Rather dark.", noise) for sub_task in ("assess", "dist_detect")]
    assert documents_of([*rows, {**region("Minor noise", noise), "problem_type": "free_form"}]) == documents_of([])


def test_a_gold_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ValueError, match="s0-score"):
        mipi([row("score", "mos", "fine", "3.0")])


def test_correlations_against_scipy() -> None:
    from scipy.stats import kendalltau, pearsonr, spearmanr

    rng = np.random.default_rng(3)
    gold = rng.integers(1, 6, 60).astype(float)  # with ties
    predicted = gold + rng.normal(size=60).round(1)
    values = correlations(predicted, gold)
    assert values["srcc"] == pytest.approx(spearmanr(predicted, gold).statistic)
    assert values["plcc"] == pytest.approx(pearsonr(predicted, gold).statistic)
    assert values["krcc"] == pytest.approx(kendalltau(predicted, gold).statistic)
    assert values["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - gold) ** 2)))
    assert correlations([1, 1, 1], [1, 2, 3])["srcc"] == 0.0
    with pytest.raises(ValueError, match="equal length"):
        correlations([1], [1, 2])
