"""ViDA-UGC's phrases, sentences and descriptions."""

from __future__ import annotations

import pytest

from data_contracts.records import DISTORTIONS, LEVELS
from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.quality import (
    canonical_distortion,
    class_of,
    read_brief,
    read_description,
    read_level,
    read_phrase,
    scan_description,
)
from tasks.rewards.examples import CLARITY, NOISE, box_text, turn
from tasks.rewards.score import score

DESCRIPTION = (
    f"A bright picture.\nDistortions: {NOISE}, {CLARITY}\nOverall: soft; key distortions: {CLARITY}\n"
    "Thus, the quality of the image is bad."
)


def accuracy(problem_type: str, gold: str, answer: str, **settings: object) -> float:
    sample = {"problem_type": problem_type, "question": "?", "answer": gold}
    return score(sample, turn(answer), RewardsConfig(**settings)).accuracy


@pytest.mark.parametrize("name", DISTORTIONS)
def test_names_in_any_usual_spelling(name: str) -> None:
    for spelling in (name, name.upper(), name.lower() + ".", name.replace(" ", "-"), name.replace(" ", "_")):
        assert canonical_distortion(spelling) == name


def test_plural_and_singular_are_one_name() -> None:
    assert canonical_distortion("blocking artifact") == "Blocking artifacts"
    assert canonical_distortion("Edge aliasing effects") == "Edge aliasing effect"
    assert canonical_distortion("chromatic aberration") is None
    assert class_of("Moderate glare") == "glare"
    assert class_of("Slight Blocking artifact") == "Blocking artifacts"


def test_phrases() -> None:
    slight, minor = read_phrase("Slight low clarity."), read_phrase("minor Low Clarity")
    assert slight == minor
    assert slight is not None
    assert (slight.severity, slight.distortion) == ("Minor", "Low clarity")
    negative = read_phrase("No distortion affects this region.")
    assert negative is not None
    assert negative.distortion == "No distortion"
    assert read_phrase("Moderate noise or motion blur") is None
    assert read_phrase("Moderate noise Moderate noise") is None


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level: str) -> None:
    assert read_level(f"Thus, the quality of the image is {level}.") == level
    assert read_level(level.upper()) == level
    assert read_level(f"not {level}") is None


@pytest.mark.parametrize(
    ("answer", "expected"), [("3.10", 1.0), ("3.42", 1.0), ("3.76", 1.0), ("3.78", 0.0), ("3 to 4", 0.0)]
)
def test_opinion_score_by_threshold(answer: str, expected: float) -> None:
    assert accuracy("mos", "3.42", answer) == expected


def test_the_threshold_is_a_setting_and_exclusive() -> None:
    assert accuracy("mos", "3.00", "3.50", mos_threshold=0.6) == 1.0
    assert accuracy("mos", "3.00", "3.50", mos_threshold=0.5) == 0.0


def test_gaussian_opinion_score() -> None:
    rubric = {"mos": {"mos_gaussian": 1.0}}
    assert accuracy("mos", "3.00", "3.00", rubrics=rubric) == 1.0
    assert accuracy("mos", "3.00", "4.00", rubrics=rubric) == pytest.approx(0.1353, abs=1e-4)
    assert accuracy("mos", "3.00", "999999999", rubrics=rubric) == pytest.approx(0.0)


def test_region_needs_distortion_and_severity() -> None:
    assert accuracy("region", "Minor noise", "Slight noise") == 1.0
    assert accuracy("region", "Minor noise", "Severe noise") == 0.0
    assert accuracy("region", "Minor noise", "noise") == 0.0
    assert accuracy("region", "No distortion affects this region.", "No distortion") == 1.0
    assert accuracy("region", "Minor noise", "No distortion affects this region.") == 0.0


def test_a_region_gold_of_boxes_is_scored_as_detection() -> None:
    gold = f"Noise: {NOISE}\nLow clarity: {CLARITY}"
    assert accuracy("region", gold, gold) == 1.0
    assert accuracy("region", gold, f"Noise: {NOISE}") == pytest.approx(2 / 3)


def test_the_distortion_reward_of_q_insight() -> None:
    rubric = {"region": {"distortion_q_insight": 1.0}}
    assert accuracy("region", "Minor noise", "Minor noise", rubrics=rubric) == 1.0
    assert accuracy("region", "Minor noise", "Severe noise", rubrics=rubric) == 0.25
    assert accuracy("region", "Minor noise", "Minor motion blur", rubrics=rubric) == 0.0


def test_brief() -> None:
    gold = "The quality of the image is poor; its key distortion is severe low clarity."
    assert accuracy("brief", gold, gold) == 1.0
    assert accuracy("brief", gold, gold.replace("poor", "fair")) == 0.5
    assert accuracy("brief", gold, "The quality of the image is poor; it has no distortion.") == 0.5
    assert accuracy("brief", gold, "poor, severe low clarity") == 0.0
    assert accuracy("brief", "The quality of the image is good; it has no distortion.", gold) == 0.0
    assert read_brief(gold + " " + gold) is None


def test_affected_region() -> None:
    def sentence(phrase: str, corner: int) -> str:
        return f"{phrase} affects the top left of the image <|box_start|>(0,0),({corner},400)<|box_end|>."

    gold = sentence("Moderate noise", 400)
    assert accuracy("distortion", gold, sentence("moderate noise", 400)) == 1.0
    assert accuracy("distortion", gold, sentence("Severe noise", 400)) == 0.5
    assert accuracy("distortion", gold, sentence("Moderate noise", 1000)) == 0.5
    assert accuracy("distortion", gold, sentence("Moderate motion blur", 400)) == 0.0
    assert accuracy("distortion", gold, "Moderate noise affects the image.") == 0.0


def test_description_is_the_mean_of_level_boxes_and_key() -> None:
    assert accuracy("description", DESCRIPTION, DESCRIPTION) == 1.0
    assert accuracy("description", DESCRIPTION, DESCRIPTION.replace("bad.", "poor.")) == pytest.approx(2 / 3)
    other_key = DESCRIPTION.replace(f"key distortions: {CLARITY}", f"key distortions: {NOISE}")
    assert accuracy("description", DESCRIPTION, other_key) == pytest.approx(2 / 3)
    fewer = DESCRIPTION.replace(f"{NOISE}, ", "")
    assert accuracy("description", DESCRIPTION, fewer) == pytest.approx((1 + 2 / 3 + 1) / 3)


@pytest.mark.parametrize(
    "answer",
    [
        DESCRIPTION + "\nOr not.",
        DESCRIPTION + "\n" + DESCRIPTION,
        DESCRIPTION + " " + DESCRIPTION,
        DESCRIPTION.rsplit("\n", 1)[0],
        "Thus, the quality of the image is bad.",
    ],
)
def test_a_description_is_the_entire_answer(answer: str) -> None:
    assert read_description(answer) is None
    assert accuracy("description", DESCRIPTION, answer) == 0.0


def test_the_official_wording_of_descriptions_is_read() -> None:
    text = (
        "The image shows a gloved hand.\nThere is one low clarity. "
        f"{NOISE} affects the hand. It is soft.\nThe {CLARITY} is the key issue. {NOISE} matters less.\n"
        "Thus, the quality of the image is fair."
    )
    read = read_description(text)
    assert read is not None
    assert [b.label for b in read.key] == ["Severe low clarity"]
    assert [b.label for b in read.distortions] == ["Moderate noise", "Severe low clarity"]
    assert read.level == "fair"


def test_metrics_take_what_can_be_had() -> None:
    partial = scan_description(f"x\n{box_text('Severe noise', (0, 0, 9, 9))}")
    assert [b.label for b in partial.distortions] == ["Severe noise"]
    assert partial.level == ""
    assert scan_description(None).distortions == ()
