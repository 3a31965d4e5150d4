"""ViDA-UGC's words: how questions are asked and gold answers are written. Boxes are integers 0..1000.

Where ViDA-UGC's wording is not published (brief, per distortion, score, level), it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.media.positions import WHOLE_PICTURE

NO_DISTORTION = "No distortion"
NOT_VISIBLE = "Not visible"
DETECTION = "Please provide the bounding box coordinates of all distortions in the image."
DESCRIPTION = "Please evaluate the image quality in detail and provide your reasons."
BRIEF = "Please describe the image quality briefly."
MOST_SIGNIFICANT = "What is the most significant distortion of the image?"
SCORE = "Please rate the image quality from 1.00 (bad) to 5.00 (excellent)."
LEVEL = "What is the quality level of the image: bad, poor, fair, good or excellent?"
NEGATIVE_REGION = "No distortion affects this region."
WHICH_MOST = "Which distortion affects the image most?"
HOW_SEVERE = "How severe is the most significant distortion in the image?"
WHERE_MOST = "Where is the most significant distortion in the image?"
WHICH_PART = "Which part of the image has the distortion that lowers the quality most?"
CHOICE_SUFFIX = "Answer with a single option's letter (A, B, C, ...) from the given choices directly."

Distortion = Mapping[str, Any]  # a DISTORTION struct


def phrase(distortion: Distortion) -> str:
    """Severity and name: "Moderate low clarity"."""
    return f"{distortion['severity']} {distortion['distortion'].lower()}"


def box_text(box: Sequence[int]) -> str:
    x1, y1, x2, y2 = box
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def labelled_box(distortion: Distortion) -> str:
    return f"<|object_ref_start|>{phrase(distortion)}<|object_ref_end|>{box_text(distortion['box'])}"


def detections(distortions: Sequence[Distortion]) -> str:
    """Every distortion with its box, or "No distortion."."""
    return ", ".join(labelled_box(d) for d in distortions) or f"{NO_DISTORTION}."


def region_question(box: Sequence[int]) -> str:
    return f"What distortion affects this region {box_text(box)}?"


def grounding_question(distortion: Distortion) -> str:
    return f"Please provide the bounding box coordinates of the region affected by {phrase(distortion).lower()}."


def distortion_question(name: str) -> str:
    return f"Please describe the {name.lower()} in the image."


def distortion_answer(distortion: Distortion) -> str:
    position = "whole" if distortion["position"] == WHOLE_PICTURE else distortion["position"]
    return f"{phrase(distortion)} affects the {position} of the image {box_text(distortion['box'])}."


def brief_answer(level: str, key: Distortion | None) -> str:
    rest = f"its key distortion is {phrase(key).lower()}." if key else "it has no distortion."
    return f"The quality of the image is {level}; {rest}"


def description_answer(content: str, distortions: Sequence[Distortion], key: Sequence[Distortion], level: str) -> str:
    """Four lines: content; distortions with boxes; overall and key distortions; level."""
    overall = (
        f"Overall: the quality is lowered; key distortions: {detections(key)}"
        if key
        else ("Overall: nothing lowers the quality; key distortions: none.")
    )
    lines = (content, f"Distortions: {detections(distortions)}", overall, level_sentence(level))
    return "\n".join(lines)


def level_sentence(level: str) -> str:
    return f"Thus, the quality of the image is {level}."


def choice_question(question: str, options: Sequence[str]) -> str:
    """Question, lettered options and the suffix, one line each."""
    lettered = [f"{letter(i)}. {option}" for i, option in enumerate(options)]
    return "\n".join([question, *lettered, CHOICE_SUFFIX])


def letter(index: int) -> str:
    return chr(ord("A") + index)
