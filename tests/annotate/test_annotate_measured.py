"""The measured teacher on photographs its typical values were not made from."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_contracts.records import DISTORTIONS, SEVERITIES
from pipeline_config.schema import ConfigError, RewardsConfig
from tasks.annotate import evidence, hypotheses, measured
from tasks.annotate.evidence import WHOLE, gather, overlap
from tasks.annotate.measured import PictureMeasurer
from tasks.annotate.teacher import QUESTION_FIELDS, read_reply
from tasks.media.degradations import Pixels, degrade
from tasks.media.measurements import measure
from tasks.media.positions import POSITIONS
from tasks.media.shipped import shipped_photographs
from tasks.rewards.score import score

BOX = "<|box_start|>(0,0),(500,1000)<|box_end|>"
PHRASED = f"<|object_ref_start|>Severe noise<|object_ref_end|>{BOX}"
# One question of every problem type and choice kind, with a gold that its answers can be read against.
QUESTIONS: dict[str, tuple[str, list[str], str]] = {
    "choice": ("Which distortion affects the image most?", ["Noise", "Motion blur", "No distortion"], "A"),
    "choice severity": ("How severe is the noise in the image?", ["Not visible", *SEVERITIES], "D"),
    "choice position": ("Where is the noise in the image?", ["left", "right", "whole picture", "top"], "A"),
    "choice significance": ("Which of these distortions lowers the quality most?", ["Noise, left", "Noise, top"], "A"),
    "mos": ("Please rate the image quality from 1.00 (bad) to 5.00 (excellent).", [], "2.10"),
    "detection": ("Please provide the bounding box coordinates of all distortions in the image.", [], PHRASED),
    "grounding": ("Please provide the bounding box coordinates of the region affected by severe noise.", [], BOX),
    "region": (f"What distortion affects this region {BOX}?", [], "Severe noise"),
    "description": (
        "Please evaluate the image quality in detail and provide your reasons.",
        [],
        f"A field.\nDistortions: {PHRASED}\nOverall: poor; key distortions: {PHRASED}\n"
        "Thus, the quality of the image is poor.",
    ),
    "brief": (
        "Please describe the image quality briefly.",
        [],
        "The quality of the image is poor; its key distortion is severe noise.",
    ),
    "distortion": (
        "Please describe the noise in the image.",
        [],
        f"Severe noise affects the left of the image {BOX}.",
    ),
    "free_form": ("What is the most significant distortion of the image?", [], "Severe noise"),
    "free_form level": ("What is the quality level of the image: bad, poor, fair, good or excellent?", [], "poor"),
}


def asked(name: str) -> dict[str, Any]:
    text, options, answer = QUESTIONS[name]
    lettered = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options)]
    question = {"question": "\n".join([text, *lettered]), "options": options, "answer": answer}
    return {"sub_task": "", "kind": "", "problem_type": name.split(" ")[0], **question}


@pytest.fixture(scope="module")
def photographs() -> list[Pixels]:
    """Crops of held-out photographs: full of detail, as ingest takes them."""
    crops = []
    for photograph in [p for p in shipped_photographs() if p.split == "test"][:8]:
        picture = Image.open(photograph.path).convert("RGB")
        scale = 300 / min(picture.size)
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX)
        crops.append(np.asarray(small.crop((66, 66, 234, 234)), dtype=np.uint8))
    return crops


def saved(folder: Path, pixels: Pixels) -> dict[str, Any]:
    path = folder / f"{abs(hash(pixels.tobytes()))}.png"
    Image.fromarray(pixels).save(path)
    return {"sample_id": path.stem, "media_type": "image", "media_path": str(path), "width": 0, "height": 0}


def ask(teacher: PictureMeasurer, name: str, row: dict[str, Any], attempt: int = 1) -> Any:
    shown = {field: value for field, value in asked(name).items() if field in QUESTION_FIELDS}
    request = teacher.request(shown, row, attempt)
    return read_reply(request.key, asyncio.run(teacher.ask(request, shown, row)))


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_gets_answers_in_the_students_form(name: str, photographs: list[Pixels]) -> None:
    noisy = degrade(photographs[0], "Noise", "Severe", (0, 0, 84, 168), np.random.default_rng(0))
    question = asked(name)
    tries = hypotheses.tries(question, gather(noisy))
    assert len({answer for _, answer in tries}) >= 2
    for reasoning, answer in tries:
        scored = score(question, f"<think>{reasoning}</think><answer>{answer}</answer>", RewardsConfig())
        assert scored.reason == "read" or ", the gold is " in scored.reason, "right or wrong, it is read"
        lettered = dict(zip("ABCDE", question["options"], strict=False))
        ending = f". {lettered[answer]} {answer}" if answer in lettered else ", suggesting [^<>]{3,40}"
        assert re.fullmatch(rf"[A-Z][^<>]{{10,128}}{ending}\.", reasoning)
    accuracies = [
        score(question, f"<think></think><answer>{answer}</answer>", RewardsConfig()).accuracy
        for _, answer in tries[:3]
    ]
    assert max(accuracies) > 0.6


def test_it_often_names_what_is_wrong_with_a_held_out_photograph(photographs: list[Pixels]) -> None:
    right = []
    for name in DISTORTIONS:
        for number, pixels in enumerate(photographs[:2]):
            degraded = degrade(pixels, name, "Severe", None, np.random.default_rng(number))
            found = gather(degraded).found
            right.append(bool(found) and found[0].distortion == name)
    assert np.mean(right) >= 0.6  # chance: 0.1


def test_it_often_sees_where_it_is_wrong(photographs: list[Pixels]) -> None:
    box = (56, 28, 168, 112)
    scaled = (333, 167, 1000, 667)
    overlaps = []
    for name in DISTORTIONS:
        degraded = degrade(photographs[1], name, "Severe", box, np.random.default_rng(1))
        overlaps.append(overlap(gather(degraded).candidates(name)[0].box, scaled))
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.7


def test_a_worse_picture_never_gets_a_better_score(photographs: list[Pixels]) -> None:
    noise = [photographs[2]] + [degrade(photographs[2], "Noise", s, None, np.random.default_rng(0)) for s in SEVERITIES]
    scores = [gather(pixels).opinion_score for pixels in noise]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 1.5


def test_the_numbers_it_names_were_measured(photographs: list[Pixels], tmp_path: Path) -> None:
    noisy = degrade(photographs[3], "Noise", "Severe", None, np.random.default_rng(0))
    reasoning = ask(PictureMeasurer(), "free_form", saved(tmp_path, noisy)).reasoning
    named = dict(re.findall(r"(noise|sharpness|contrast|colorfulness) (\d+)", reasoning.lower()))
    values, _ = gather(noisy).mean(WHOLE)
    assert named
    assert all(round(values[name]) == int(number) for name, number in named.items())
    # The picture as a whole measures about what its cells measure in the mean.
    assert abs(values["noise"] - measure(noisy).noise) < 0.15 * values["noise"]


def test_the_same_try_gives_the_same_answer_and_the_next_try_another(photographs: list[Pixels], tmp_path: Path) -> None:
    row = saved(tmp_path, photographs[4])
    first, again = (ask(PictureMeasurer(), "choice severity", row) for _ in range(2))
    assert first == again
    assert first.answer != ask(PictureMeasurer(), "choice severity", row, attempt=2).answer
    last, beyond = (ask(PictureMeasurer(), "choice severity", row, attempt) for attempt in (4, 9))
    assert last.answer == beyond.answer


def test_a_picture_is_measured_once_for_all_its_questions(
    photographs: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[int] = []

    def counted(pixels: Pixels) -> evidence.Evidence:
        gathered.append(1)
        return gather(pixels)

    monkeypatch.setattr(measured, "gather", counted)
    row, teacher = saved(tmp_path, photographs[5]), PictureMeasurer()
    for name in QUESTIONS:
        assert ask(teacher, name, row).answer
    assert len(gathered) == 1


def test_a_change_of_its_source_is_another_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"sample_id": "picture"}
    before = PictureMeasurer().request(asked("mos"), row, 1)
    assert PictureMeasurer().request(asked("mos"), row, 1).key == before.key
    monkeypatch.setattr(measured, "_SOURCES", measured._SOURCES[1:])
    measured.version.cache_clear()
    try:
        assert PictureMeasurer().request(asked("mos"), row, 1).key != before.key
    finally:
        measured.version.cache_clear()


@pytest.mark.parametrize("size", [(40, 300), (17, 17), (33, 20), (700, 90)])
def test_pictures_of_any_shape_are_measured(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    gathered = gather(pixels)
    assert 1.0 <= gathered.opinion_score <= 5.0
    assert all(tries for name in QUESTIONS if (tries := hypotheses.tries(asked(name), gathered)))
    assert {position for _, position in hypotheses._by_position(gathered, "Noise")} == set(POSITIONS)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    teacher = PictureMeasurer()
    row = saved(tmp_path, np.zeros((56, 56, 3), np.uint8))
    unknown = {"problem_type": "captioning", "question": "What happens?", "options": []}
    unmeasurable = {"problem_type": "choice", "question": "Who is it?", "options": ["Ann", "Ben"]}
    for question in (unknown, unmeasurable):
        reply = asyncio.run(teacher.ask(teacher.request(question, row, 1), question, row))
        assert reply.refusal == "the question asks for nothing that is measured"
    tiny = saved(tmp_path, np.zeros((8, 56, 3), np.uint8))
    assert "too small" in ask(teacher, "mos", tiny).refusal
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"broken\.png: cannot be read"):
        ask(teacher, "mos", {**row, "sample_id": "broken", "media_path": str(tmp_path / "broken.png")})
