"""The report's gallery and its readings: what each student said about a picture, next to the gold.

Pictures are chosen by seed and spread over photographs, never by how well a student did. What a student wrote is text
from outside: it reaches the page only through the template's escaping.
"""

from __future__ import annotations

import base64
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_contracts.records import BOX_SCALE, DISTORTIONS
from tasks.rewards.answers.boxes import LabelledBox
from tasks.rewards.answers.choice import clean_text, option_texts, read_choice
from tasks.rewards.answers.numbers import read_number
from tasks.rewards.answers.quality import (
    NO_DISTORTION,
    canonical_distortion,
    read_description,
    read_detections,
    read_phrase,
    scan_description,
)
from tasks.rewards.answers.turn import read_turn

Row = Mapping[str, Any]
UNREAD = "unreadable"
LONGEST_SIDE = 640  # pixels of an embedded picture
_BOX_TOKENS = re.compile(r"<\|object_ref_(?:start|end)\|>|<\|box_end\|>")


_FULLNESS = {"description": 0, "detection": 1, "brief": 2, "distortion": 3}


@dataclass(frozen=True)
class DrawnBox:
    """A box as the page draws it: corner and size in 0..1000; key: it marks a key distortion."""

    phrase: str
    x: float
    y: float
    width: float
    height: float
    key: bool


@dataclass(frozen=True)
class Said:
    """One student's answer to one question. accuracy in [0, 1]."""

    student: str
    text: str
    accuracy: float


@dataclass(frozen=True)
class Words:
    """One student's whole turn. think: "" where the turn is not well formed; it then stands in `answer` as it came."""

    student: str
    think: str
    answer: str


@dataclass(frozen=True)
class Asked:
    question: str
    gold: str
    answers: list[Said]


@dataclass(frozen=True)
class Card:
    """One picture of the gallery. gold, predicted: boxes, None where that side was not asked or could not be read."""

    title: str
    source: str  # data URI
    gold: list[DrawnBox] | None
    predicted: list[DrawnBox] | None
    gold_mos: str
    predicted_mos: str
    words: list[Words]  # about the fullest question that was asked
    asked: list[Asked]


def choose_pictures(rows: Sequence[Row], limit: int, seed: int) -> list[str]:
    """At most `limit` sample ids, spread over photographs; those asked for a description or detection come first."""
    boxed = {row["sample_id"] for row in rows if row["problem_type"] in ("description", "detection")}
    by_photograph: dict[str, list[str]] = defaultdict(list)
    for sample, photograph in sorted({(row["sample_id"], row["source_photograph"]) for row in rows}):
        by_photograph[photograph].append(sample)
    rng = np.random.default_rng(seed)
    ranked = []
    for photograph in rng.permutation(sorted(by_photograph)).tolist():
        pictures = rng.permutation(by_photograph[photograph]).tolist()
        pictures.sort(key=lambda sample: sample not in boxed)
        ranked += [(sample not in boxed, turn, sample) for turn, sample in enumerate(pictures)]
    return [sample for _, _, sample in sorted(ranked, key=lambda r: r[:2])[:limit]]


def build_card(rows: Sequence[Row], students: Sequence[str], final: str) -> Card:
    """One picture's card. rows: its own; students: whose answers are shown; final: whose boxes are drawn."""
    own = [row for row in rows if row["student"] == final]
    # The fullest thing that was asked; of one student all rows of a dialogue hold the same turn.
    fullest = min(rows, key=lambda row: _FULLNESS.get(row["problem_type"], len(_FULLNESS)))["question_id"]
    told = {row["student"]: row for row in rows if row["question_id"] == fullest}
    by_question: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_question[row["question_id"]].append(row)
    golds, answers = ([row[key] for row in own if row["problem_type"] == "mos"] for key in ("gold", "answer"))
    return Card(
        title=Path(rows[0]["source_photograph"]).stem.replace("_", " "),
        source=picture_uri(Path(rows[0]["media_path"])),
        gold=_boxes(own, "gold"),
        predicted=_boxes(own, "answer"),
        gold_mos=golds[0] if golds else "",
        predicted_mos=(answers[0] or UNREAD) if answers else "",
        words=[_words(told[name]) for name in students if name in told],
        asked=[_asked(answers, students) for answers in by_question.values()],
    )


def _words(row: Row) -> Words:
    turn = read_turn(row["completion"])
    if turn.complete:
        return Words(row["student"], plain(turn.think or ""), plain(turn.answer or ""))
    return Words(row["student"], "", plain(turn.text))


def _asked(rows: Sequence[Row], students: Sequence[str]) -> Asked:
    by_student = {row["student"]: row for row in rows}
    question = rows[0]["question"]
    if rows[0]["problem_type"] == "choice":  # its options stand with the answers
        question = question.split("\n", 1)[0]
    said = [
        Said(name, _answer_text(row, row["answer"]), row["accuracy"])
        for name in students
        if (row := by_student.get(name)) is not None
    ]
    return Asked(plain(question), _answer_text(rows[0], rows[0]["gold"]), said)


def _answer_text(row: Row, text: str | None) -> str:
    """An answer for reading: a letter with its option, "" if nothing was read."""
    if text is None:
        return ""
    if row["problem_type"] == "choice":
        options = option_texts(row["options"], row["question"])
        index = read_choice(text, options)
        if index is not None and index < len(options):
            return f"{chr(ord('A') + index)}. {options[index]}"
    return plain(text)


def _boxes(rows: Iterable[Row], key: str) -> list[DrawnBox] | None:
    """Boxes of the picture's detailed description, else of its detection answer."""
    texts = {row["problem_type"]: row[key] for row in rows}
    text = texts.get("description")
    if text is not None:
        # As the metrics read it: a description that is cut or out of form still counts by its boxes.
        description = scan_description(text)
        marked = {(clean_text(box.label), box.box) for box in description.key}
        if description.distortions or read_description(text) is not None:
            return [_drawn(box, (clean_text(box.label), box.box) in marked) for box in description.distortions]
    detections = read_detections(texts.get("detection"))
    return None if detections is None else [_drawn(box, False) for box in detections]


def _drawn(box: LabelledBox, key: bool) -> DrawnBox:
    x1, y1, x2, y2 = (min(BOX_SCALE, max(0.0, corner)) for corner in box.box)
    return DrawnBox(box.label or "unnamed", min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1), key)


def plain(text: str) -> str:
    """A turn as a person reads it: the box tokens gone, their corners kept; nothing else is touched."""
    return _BOX_TOKENS.sub("", text.replace("<|box_start|>", " ")).replace("  (", " (").strip()


def picture_uri(path: Path) -> str:
    """The picture as a data URI, at most LONGEST_SIDE pixels a side; "" if its file is gone."""
    from PIL import Image

    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    small = max(picture.size) <= LONGEST_SIDE
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    # Degraded crops are small and their artefacts are the point: kept losslessly.
    picture.save(stream, "PNG") if small else picture.save(stream, "JPEG", quality=90)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def confusion(rows: Iterable[Row]) -> tuple[list[str], list[str], np.ndarray]:
    """(true classes, answered classes, counts[true, answered]) of the distortion type.

    From one student's answers about regions, the most significant distortion, and choices of a type. The last answered
    class is "unreadable". Classes that never occur are left out.
    """
    classes = [*DISTORTIONS, NO_DISTORTION]
    counts = np.zeros((len(classes), len(classes) + 1), dtype=int)
    for row in rows:
        true, answered = _type(row, row["gold"]), _type(row, row["answer"])
        if true is not None:
            counts[classes.index(true), classes.index(answered) if answered else -1] += 1
    kept = [i for i in range(len(classes)) if counts[i].any() or counts[:, i].any()]
    columns = [*kept, *([len(classes)] if counts[:, -1].any() else [])]
    names = [*classes, UNREAD]
    return [names[i] for i in kept], [names[i] for i in columns], counts[np.ix_(kept, columns)]


def _type(row: Row, text: str | None) -> str | None:
    """The distortion that an answer names, None if it names none or its question does not ask for one."""
    if row["problem_type"] in ("region", "free_form"):
        phrase = read_phrase(text)
        return phrase.distortion if phrase else None
    if row["problem_type"] != "choice" or row["kind"] != "type":
        return None
    options = option_texts(row["options"], row["question"])
    index = read_choice(text, options)
    if index is None:
        return None
    option = options[index]
    return NO_DISTORTION if clean_text(option) == clean_text(NO_DISTORTION) else canonical_distortion(option)


def mos_pairs(rows: Iterable[Row]) -> list[tuple[float, float]]:
    """(true, predicted) of one student's readable MOS answers."""
    pairs = ((read_number(r["gold"]), read_number(r["answer"])) for r in rows if r["problem_type"] == "mos")
    return [(true, predicted) for true, predicted in pairs if true is not None and predicted is not None]
