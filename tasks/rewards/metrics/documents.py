"""The official MIPI files as Python objects: a submission and its reference, from EVALUATION-like rows and back.

Metrics are computed on these objects whether they come from memory or from files, so both agree exactly.

submission: perception.json [{id, concern, question, image, candidates, pred_ans}], grounding.json [{id, image,
question, question_type, pred_ans, distortions: [{distortion, severity, coordinates}]}], description.json [{id, image,
pred_ans, all_distortions, key_distortions, image_quality}], scoring.json [{id, image, pred_mos}]. reference: mcq.json
[{id, image, candidates, correct_ans}], reg-p_bench.json [{id, image, question, distortions}], bench_metadata.json
[{image, mos, level, distortions: [{.., significance_score}]}].

How the official traps are avoided: every choice is exported as a capital letter within range (an unreadable answer as
an additional candidate "No answer", which is wrong but does not zero the metric); every grounding item bears its
``question_type``; "No distortion" is exported as no box; names are in ViDA-UGC's spelling ("Blocking artifacts"), and
names that are no known distortion are left out; end-of-turn tokens and closing line ends are stripped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_contracts.records import DISTORTIONS
from tasks.rewards.answers.boxes import LabelledBox
from tasks.rewards.answers.choice import option_texts, read_choice
from tasks.rewards.answers.numbers import read_number
from tasks.rewards.answers.quality import (
    NO_DISTORTION,
    class_of,
    read_detections,
    read_phrase,
    scan_description,
    severity_of,
)
from tasks.rewards.boxes import question_box

NO_ANSWER = "No answer"
REGION, DETECTION = "region-perception", "distortion-detection"
UNREAD_MOS = 3.0  # an unreadable opinion score stands as the middle of [1, 5]: leaving it out would reward silence
SUBMISSION_FILES = {
    "perception": "perception.json",
    "grounding": "grounding.json",
    "description": "description.json",
    "scoring": "scoring.json",
}
REFERENCE_FILES = {"mcq": "mcq.json", "regions": "reg-p_bench.json", "metadata": "bench_metadata.json"}

Row = Mapping[str, Any]
Document = dict[str, Any]


@dataclass
class Submission:
    perception: list[Document] = field(default_factory=list)
    grounding: list[Document] = field(default_factory=list)
    description: list[Document] = field(default_factory=list)
    scoring: list[Document] = field(default_factory=list)


@dataclass
class Reference:
    mcq: list[Document] = field(default_factory=list)
    regions: list[Document] = field(default_factory=list)
    metadata: list[Document] = field(default_factory=list)


def documents_of(rows: Sequence[Row]) -> tuple[Submission, Reference]:
    """The submission that the answers amount to, and the reference that the golds do; items in the order of the rows.

    Raises ValueError on a gold that cannot be read.
    """
    submission, reference = Submission(), Reference()
    names = image_names(rows)
    metadata: dict[str, Document] = {}
    for number, row in enumerate(rows):
        image = names[str(row["sample_id"])]
        try:
            if row["problem_type"] == "choice":
                _add_choice(submission, reference, number, image, row)
            elif row["problem_type"] == "mos":
                _add_mos(submission, metadata, number, image, row)
            elif (row["sub_task"], row["problem_type"]) == ("reg_perception", "region"):
                submission.grounding.append(_region_item(reference, number, image, row))
            elif (row["sub_task"], row["problem_type"]) == ("dist_detect", "detection"):
                submission.grounding.append(_detection_item(metadata, number, image, row))
            elif (row["sub_task"], row["problem_type"]) == ("assess", "description"):
                _add_description(submission, metadata, number, image, row)
        except ValueError as error:
            raise ValueError(f"question {row.get('question_id') or number}: {error}") from error
    reference.metadata = [_finished(picture) for picture in metadata.values()]
    return submission, reference


def image_names(rows: Iterable[Row]) -> dict[str, str]:
    """Sample id -> file name, or the sample id itself where two samples share a file name or have none."""
    names = {str(row["sample_id"]): Path(str(row.get("media_path") or row["sample_id"])).name for row in rows}
    unique = len(set(names.values())) == len(names)
    return names if unique else {sample: sample for sample in names}


def _add_choice(submission: Submission, reference: Reference, number: int, image: str, row: Row) -> None:
    candidates = option_texts(row["options"], str(row["question"] or ""))
    gold, chosen = read_choice(row["gold"], candidates), read_choice(row["answer"], candidates)
    if gold is None or not candidates:
        raise ValueError(f"the gold {row['gold']!r} names none of the options {candidates}")
    shown = candidates if chosen is not None else [*candidates, NO_ANSWER]
    letter = chr(ord("A") + (chosen if chosen is not None else len(candidates)))
    item = {"id": number, "concern": row["kind"], "question": row["question"], "image": image}
    submission.perception.append({**item, "candidates": shown, "pred_ans": letter})
    reference.mcq.append({**item, "candidates": candidates, "correct_ans": candidates[gold]})


def _add_mos(submission: Submission, metadata: dict[str, Document], number: int, image: str, row: Row) -> None:
    gold, found = read_number(row["gold"]), read_number(row["answer"])
    if gold is None:
        raise ValueError(f"the gold opinion score {row['gold']!r} is no number")
    predicted = UNREAD_MOS if found is None else min(5.0, max(1.0, found))
    submission.scoring.append({"id": number, "image": image, "pred_mos": predicted})
    _picture(metadata, image)["mos"] = gold


def _region_item(reference: Reference, number: int, image: str, row: Row) -> Document:
    item = {"id": number, "image": image, "question": row["question"]}
    reference.regions.append({**item, "distortions": region_distortions(row["question"], row["gold"])})
    found = region_distortions(row["question"], row["answer"])
    return {**item, "question_type": REGION, "pred_ans": row["answer"] or "", "distortions": found}


def _detection_item(metadata: dict[str, Document], number: int, image: str, row: Row) -> Document:
    gold = read_detections(row["gold"])
    if gold is None:
        raise ValueError(f"the gold {row['gold']!r} is no list of boxes")
    _picture(metadata, image)["detected"] = as_distortions(gold)
    found = as_distortions(read_detections(row["answer"]) or ())
    item = {"id": number, "image": image, "question": row["question"], "question_type": DETECTION}
    return {**item, "pred_ans": row["answer"] or "", "distortions": found}


def _add_description(submission: Submission, metadata: dict[str, Document], number: int, image: str, row: Row) -> None:
    gold, found = scan_description(row["gold"]), scan_description(row["answer"])
    if not gold.level:
        raise ValueError("the gold description does not end in the sentence of the level")
    picture = _picture(metadata, image)
    picture["level"], picture["described"] = gold.level, as_distortions(gold.distortions)
    picture["key"] = as_distortions(gold.key)
    submission.description.append(
        {
            "id": number,
            "image": image,
            "pred_ans": row["answer"] or "",
            "all_distortions": as_distortions(found.distortions),
            "key_distortions": as_distortions(found.key),
            "image_quality": found.level or "unknown",
        }
    )


def _picture(metadata: dict[str, Document], image: str) -> Document:
    return metadata.setdefault(image, {"image": image, "mos": None, "level": None})


def _finished(picture: Document) -> Document:
    """A picture of the metadata: its distortions are the detection gold's, else the description gold's; the key ones
    have significance 1, the others 0 (of the gold text only the order of significance is known)."""
    distortions: list[Document] = picture["detected"] if "detected" in picture else picture.get("described") or []
    key = [(d["distortion"], d["coordinates"]) for d in picture.get("key", [])]
    scored = [{**d, "significance_score": float((d["distortion"], d["coordinates"]) in key)} for d in distortions]
    return {**{name: picture[name] for name in ("image", "mos", "level")}, "distortions": scored}


def as_distortions(boxes: Iterable[LabelledBox]) -> list[Document]:
    """Boxes that name a known distortion, as the official files write them."""
    return [
        {"distortion": name, "severity": severity_of(b.label), "coordinates": list(b.box)}
        for b in boxes
        if (name := class_of(b.label)) in DISTORTIONS
    ]


def region_distortions(question: str | None, answer: str | None) -> list[Document]:
    """What a region answer says: its own boxes if it lists any, else its phrase on the box of the question."""
    phrase, asked = read_phrase(answer), question_box(question or "")
    if phrase is None:
        return as_distortions(read_detections(answer) or ())
    if phrase.distortion == NO_DISTORTION or asked is None:
        return []
    return [{"distortion": phrase.distortion, "severity": phrase.severity, "coordinates": list(asked.box)}]


def write_documents(documents: Submission | Reference, folder: Path) -> list[Path]:
    """Write a submission's or a reference's files; returns their paths."""
    files = SUBMISSION_FILES if isinstance(documents, Submission) else REFERENCE_FILES
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        (folder / file).write_text(json.dumps(getattr(documents, name), indent=1, ensure_ascii=False))
    return [folder / file for file in files.values()]


def read_submission(folder: Path) -> Submission:
    """A submission from its files; a missing file is an empty list. Raises ValueError naming a file that cannot be
    used.
    """
    return Submission(**{name: _read(folder / file) for name, file in SUBMISSION_FILES.items()})


def read_reference(folder: Path) -> Reference:
    """A reference from its files; as `read_submission`."""
    return Reference(**{name: _read(folder / file) for name, file in REFERENCE_FILES.items()})


def _read(path: Path) -> list[Document]:
    if not path.is_file():
        return []
    try:
        items = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"{path}: must be a list of objects")
    return items
