"""Questions: ViDA's wording, certain golds only, every gold scoring full marks under the rewards of training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_contracts.records import SUB_TASKS
from data_contracts.refs import text_digest
from pipeline_config.schema import QuestionsConfig, load_config
from tasks.ingest.questions import expand
from tasks.ingest.sources.protocol import Item
from tasks.media.positions import position_of
from tasks.media.probe import Probed
from tasks.rewards.health import gold_scores_full


def _distortion(name: str, severity: str, box: list[int], significance: float) -> dict[str, Any]:
    return {
        "id": 0,
        "distortion": name,
        "severity": severity,
        "box": box,
        "position": position_of(box),
        "significance": significance,
    }


NOISE = _distortion("Noise", "Moderate", [0, 0, 400, 400], 1.5)
BLUR = _distortion("Motion blur", "Severe", [500, 500, 1000, 1000], 0.4)


def _item(distortions: list[dict[str, Any]] | None, number: int = 0, **changes: Any) -> Item:
    probed = Probed(168, 168, text_digest(str(number)), "0" * 16, "PNG")
    item = Item(
        path=Path("/a.png"),
        probed=probed,
        source="s",
        source_file=Path("/a.csv"),
        source_row=5,
        photograph="s/a",
        split=None,
        mos=2.71,
        level="fair",
        distortions=distortions,
        content="The picture is dim and mostly green.",
    )
    return replace(item, **changes)


def _asked(item: Item, config: QuestionsConfig | None = None, **where: str) -> list[dict[str, Any]]:
    questions = expand(item, config or QuestionsConfig(), seed=0)
    return [q for q in questions if all(q[field] == value for field, value in where.items())]


def _answers(item: Item, sub_task: str) -> dict[str, str]:
    return {q["question"]: q["answer"] for q in _asked(item, sub_task=sub_task)}


NOISE_BOX = "<|box_start|>(0,0),(400,400)<|box_end|>"
BLUR_BOX = "<|box_start|>(500,500),(1000,1000)<|box_end|>"
NOISE_TEXT = f"<|object_ref_start|>Moderate noise<|object_ref_end|>{NOISE_BOX}"
BLUR_TEXT = f"<|object_ref_start|>Severe motion blur<|object_ref_end|>{BLUR_BOX}"


def test_the_wording_is_vidas() -> None:
    item = _item([NOISE, BLUR])
    assert _answers(item, "dist_detect") == {
        "Please provide the bounding box coordinates of all distortions in the image.": f"{NOISE_TEXT}, {BLUR_TEXT}"
    }
    regions = _answers(item, "reg_perception")
    assert regions[f"What distortion affects this region {NOISE_BOX}?"] == "Moderate noise"
    assert _answers(item, "ref_grounding") == {
        "Please provide the bounding box coordinates of the region affected by moderate noise.": NOISE_BOX,
        "Please provide the bounding box coordinates of the region affected by severe motion blur.": BLUR_BOX,
    }
    assert _answers(item, "assess") == {
        "Please evaluate the image quality in detail and provide your reasons.": (
            "The picture is dim and mostly green.\n"
            f"Distortions: {NOISE_TEXT}, {BLUR_TEXT}\n"
            f"Overall: the quality is lowered; key distortions: {NOISE_TEXT}\n"
            "Thus, the quality of the image is fair."
        )
    }
    assert _answers(item, "brief_assess") == {
        "Please describe the image quality briefly.": (
            "The quality of the image is fair; its key distortion is moderate noise."
        )
    }
    assert _answers(item, "dist_assess") == {
        "Please describe the noise in the image.": f"Moderate noise affects the top left of the image {NOISE_BOX}.",
        "Please describe the motion blur in the image.": (
            f"Severe motion blur affects the bottom right of the image {BLUR_BOX}."
        ),
    }
    assert _answers(item, "qa") == {"What is the most significant distortion of the image?": "Moderate noise"}
    assert list(_answers(item, "score").values()) == ["2.71"]


def test_a_choice_lists_its_options_and_ends_in_the_suffix() -> None:
    (choice,) = _asked(_item([NOISE, BLUR]), kind="significance")
    lines = choice["question"].split("\n")
    assert lines[0] == "Which part of the image has the distortion that lowers the quality most?"
    assert lines[-1] == "Answer with a single option's letter (A, B, C, ...) from the given choices directly."
    assert lines[1:-1] == [f"{letter}. {text}" for letter, text in zip("AB", choice["options"], strict=True)]
    assert choice["options"][ord(choice["answer"]) - ord("A")] == "top left"


@pytest.mark.parametrize("distortions", [[], [NOISE], [NOISE, BLUR]])
def test_every_gold_scores_full_marks_and_every_sub_task_is_asked(distortions: list[dict[str, Any]]) -> None:
    rewards = load_config("demo").rewards
    questions = [q for number in range(20) for q in expand(_item(distortions, number), QuestionsConfig(), 0)]
    assert [gold_scores_full(q, rewards) for q in questions] == [None] * len(questions)
    expected = set(SUB_TASKS) if distortions else set(SUB_TASKS) - {"ref_grounding", "dist_assess"}
    assert {q["sub_task"] for q in questions} == expected
    assert all(q["category"] == SUB_TASKS[q["sub_task"]] and q["source_row"] == 5 for q in questions)
    assert len({q["question_id"] for q in questions}) == len(questions)


def test_the_right_letter_and_the_right_text_are_spread() -> None:
    """Neither a constant letter nor a constant option is worth much."""
    choices = [q for n in range(400) for q in _asked(_item([NOISE, BLUR], n), sub_task="mcq")]
    choices += [q for n in range(400) for q in _asked(_item([NOISE], n), kind="position")]
    for kind, num_letters in (("type", 4), ("severity", 4), ("position", 4), ("significance", 2)):
        letters = Counter(q["answer"] for q in choices if q["kind"] == kind)
        assert len(letters) == num_letters
        assert max(letters.values()) < 1.3 * sum(letters.values()) / num_letters
    listed = sum("No distortion" in q["options"] for q in choices if q["kind"] == "type")
    assert 60 < listed < 140


def test_no_choice_question_of_a_picture_gives_away_another() -> None:
    for distortions in ([NOISE], [NOISE, BLUR]):
        for number in range(50):
            asked = {q["kind"]: q for q in _asked(_item(distortions, number), sub_task="mcq")}
            assert set(asked) == {"type", "severity", "significance" if len(distortions) > 1 else "position"}
            for kind, question in asked.items():
                stem = question["question"].split("\n")[0].lower()
                assert "noise" not in stem
                assert "blur" not in stem
                if kind != "type":
                    assert not any("noise" in option.lower() for option in question["options"])


def test_what_is_not_certain_is_not_asked() -> None:
    twice = [NOISE, {**NOISE, "box": [600, 600, 900, 900], "position": "bottom right", "severity": "Minor"}]
    item = _item([{**d, "significance": 1.0} for d in twice])
    for sub_task in ("mcq", "qa", "brief_assess", "dist_assess"):
        assert _asked(item, sub_task=sub_task) == []
    key_line = _asked(item, sub_task="assess")[0]["answer"].split("\n")[2]
    assert key_line.count("<|box_start|>") == 2
    same_phrase = _item([NOISE, {**NOISE, "box": [600, 600, 900, 900], "significance": 0.1}])
    assert _asked(same_phrase, sub_task="ref_grounding") == []


def test_a_region_that_two_distortions_share_is_not_asked_for() -> None:
    whole = _distortion("Low clarity", "Minor", [0, 0, 1000, 1000], 2.0)
    questions = _answers(_item([whole, NOISE]), "reg_perception")
    assert list(questions.values()) == ["Minor low clarity"]


def test_clean_regions_touch_no_distortion() -> None:
    for number in range(50):
        for question, answer in _answers(_item([NOISE], number), "reg_perception").items():
            if answer == "No distortion affects this region.":
                x1, y1 = (int(n) for n in question.split("<|box_start|>(")[1].split(")")[0].split(","))
                assert x1 >= 400 or y1 >= 400
    assert list(_answers(_item([]), "reg_perception").values()) == ["No distortion affects this region."]


def test_no_distortion_is_an_answer_like_any_other() -> None:
    item = _item([], mos=5.0, level="excellent")
    assert list(_answers(item, "qa").values()) == ["No distortion."]
    assert list(_answers(item, "dist_detect").values()) == ["No distortion."]
    assert list(_answers(item, "brief_assess").values()) == [
        "The quality of the image is excellent; it has no distortion."
    ]
    (choice,) = _asked(item, kind="type")
    assert choice["options"][ord(choice["answer"]) - 65] == "No distortion"
    assert _asked(item, kind="position") == _asked(item, kind="significance") == []


def test_the_config_chooses_sub_tasks_kinds_and_numbers() -> None:
    config = QuestionsConfig(sub_tasks=("mcq", "score"), kinds=("type",), num_choices=6)
    questions = expand(_item([NOISE, BLUR]), config, 0)
    assert [q["sub_task"] for q in questions] == ["mcq", "score"]
    assert len(questions[0]["options"]) == 6
    for number in (1, 2, 3):
        regions = QuestionsConfig(sub_tasks=("reg_perception",), regions_per_image=number)
        assert len(expand(_item([NOISE, BLUR]), regions, 0)) == number, "a clean region fills up"


def test_the_same_sample_is_asked_the_same_and_another_is_not() -> None:
    config = QuestionsConfig()
    assert expand(_item([NOISE]), config, 0) == expand(_item([NOISE]), config, 0)
    options = [[q["options"] for q in expand(_item([NOISE], n), config, s)] for n, s in ((0, 0), (1, 0), (0, 1))]
    assert options[0] != options[1]
    assert options[0] != options[2]
