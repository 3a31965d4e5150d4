"""ViDA-UGC's own questions: conversation JSONL in LLaVA's form, one sub-task a file.

    {"image": "0001.jpg", "question_type": "..",
     "conversations": [{"from": "human", "value": "<image>\\n.."}, {"from": "gpt", "value": ".."}]}

The sub-task is told by ``question_type`` or else by the file's name (``ViDA-G/ref-grounding.jsonl``). An answer that
is not in the form its sub-task's reward reads becomes a free-form question, so that its gold still scores full marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data_contracts.records import CHOICE_KINDS, SUB_TASKS
from pipeline_config.schema import ConfigError
from tasks.ingest.sources.protocol import Quarantined
from tasks.rewards.answers.boxes import read_boxes
from tasks.rewards.answers.choice import option_texts
from tasks.rewards.answers.numbers import read_number
from tasks.rewards.answers.quality import (
    read_affected_region,
    read_brief,
    read_description,
    read_detections,
    read_phrase,
)

Place = tuple[Path, int]
Questions = dict[str, tuple[Place, list[dict[str, Any]]]]

_PROBLEM_TYPES: dict[str, tuple[str, Callable[[str], object]]] = {
    "dist_detect": ("detection", read_detections),
    "ref_grounding": ("grounding", read_boxes),
    "reg_perception": ("region", lambda answer: read_phrase(answer) or read_boxes(answer)),
    "assess": ("description", read_description),
    "brief_assess": ("brief", read_brief),
    "dist_assess": ("distortion", read_affected_region),
}
_KIND_WORDS = (("severity", ("how severe", "severity")), ("position", ("where", "position")))


def read_conversations(paths: Iterable[Path]) -> tuple[Questions, list[Quarantined]]:
    """Questions per image, with the place of its first row; and the rows that cannot be used. Raises ConfigError."""
    questions: Questions = {}
    refused = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                found = _questions(record, path)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"is no conversation of a known sub-task ({error}); correct or remove it"
                refused.append(Quarantined(path.absolute(), number, "conversations", reason))
                continue
            _, known = questions.setdefault(record["image"], ((path.absolute(), number), []))
            known.extend(found)
    return questions, refused


def _questions(record: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    sub_task = _sub_task(str(record.get("question_type") or ""), path)
    turns = record["conversations"]
    if not isinstance(record["image"], str) or len(turns) < 2 or len(turns) % 2:
        raise ValueError("an image and pairs of human and gpt turns are needed")
    asked = []
    for human, gpt in zip(turns[::2], turns[1::2], strict=True):
        if (human["from"], gpt["from"]) != ("human", "gpt"):
            raise ValueError("turns must alternate between human and gpt")
        asked.append(_question(sub_task, human["value"].replace("<image>", "").strip(), gpt["value"].strip()))
    return asked


def _sub_task(question_type: str, path: Path) -> str:
    for words in (question_type, path.stem):
        name = re.sub(r"[\s-]+", "_", words.strip().lower())
        found = [sub_task for sub_task in SUB_TASKS if re.search(rf"(^|_){sub_task}(_|$)", name)]
        if found:
            return max(found, key=len)  # "brief_assess" over "assess"
    raise ValueError(
        f"neither question_type {question_type!r} nor the name {path.name!r} tells one of {list(SUB_TASKS)}"
    )


def _question(sub_task: str, question: str, answer: str) -> dict[str, Any]:
    kind, problem_type = sub_task, "free_form"
    options: list[str] = []
    if not question or not answer:
        raise ValueError("a turn is empty")
    if sub_task == "mcq":
        options = option_texts((), question)
        letters = [chr(ord("A") + i) for i in range(len(options))]
        if answer[:1] not in letters or answer[1:2].isalnum():
            raise ValueError(f"answer {answer[:20]!r} is none of the options {letters}")
        answer, problem_type, kind = answer[0], "choice", _choice_kind(question)
    elif sub_task == "score" and (score := read_number(answer)) is not None and 1 <= score <= 5:
        answer, problem_type = f"{score:.2f}", "mos"
    elif sub_task in _PROBLEM_TYPES and _PROBLEM_TYPES[sub_task][1](answer) is not None:
        problem_type = _PROBLEM_TYPES[sub_task][0]
    return {
        "sub_task": sub_task,
        "kind": kind,
        "problem_type": problem_type,
        "question": question,
        "options": options,
        "answer": answer,
    }


def _choice_kind(question: str) -> str:
    """By the words of ViDA-UGC's four kinds; ``type`` where none fits."""
    first = question.split("\n", 1)[0].lower()
    for kind, words in _KIND_WORDS:
        if any(word in first for word in words):
            return kind
    most = "most" in first and ("quality" in first or "significant" in first)
    return CHOICE_KINDS[3] if most else CHOICE_KINDS[0]
