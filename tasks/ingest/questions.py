"""Every question that a sample's annotation can answer, in ViDA-UGC's three categories, plus the opinion score.

A question is asked only where its gold is certain: a distortion that occurs twice has no one position, a region that
two distortions share has no one name, and a picture with a score but no distortions is asked for score and level only.
ViDA-UGC's own expansion (11,848 images to 534,000 questions) is not published; the choice of questions and of wrong
options is ours. The choice questions of one picture share a prompt once they are merged, so none may give away another:
they ask for the most significant distortion without naming it, and the place of it is asked once, among all places or
among those of the picture's distortions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_contracts.records import BOX_SCALE, DISTORTIONS, SEVERITIES, SUB_TASKS
from data_contracts.refs import text_digest
from pipeline_config.schema import QuestionsConfig
from tasks.ingest import wording
from tasks.ingest.sources.protocol import Item
from tasks.media.positions import POSITIONS

Box = Sequence[int]
_SHARED_REGION = 0.5  # a region covered this much by another distortion has no one name
_NO_DISTORTION_OPTION = 0.25  # how often "No distortion" stands among the wrong options


@dataclass(frozen=True)
class Asked:
    """One question with its gold, not yet bound to a sample."""

    sub_task: str
    kind: str
    problem_type: str
    question: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Subject:
    """What questions are asked about. key: the distortions of largest significance."""

    item: Item
    distortions: list[dict[str, Any]]
    key: list[dict[str, Any]]
    config: QuestionsConfig
    rng: np.random.Generator

    @property
    def named_key(self) -> dict[str, Any] | None:
        """The key distortion if there is one, and one only."""
        return self.key[0] if len(self.key) == 1 else None

    def once(self) -> list[dict[str, Any]]:
        """Distortions whose name stands once in the picture."""
        names = Counter(d["distortion"] for d in self.distortions)
        return [d for d in self.distortions if names[d["distortion"]] == 1]

    def absent(self) -> list[str]:
        """Names of distortions the picture has not, shuffled."""
        present = {d["distortion"] for d in self.distortions}
        return self.shuffled([name for name in DISTORTIONS if name not in present])

    def shuffled(self, values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in self.rng.permutation(len(values))]


def expand(item: Item, config: QuestionsConfig, seed: int) -> list[dict[str, Any]]:
    """The questions of one sample, as QUESTION structs; given questions of the item take the place of expanded ones.

    Deterministic in the seed and the sample's content id.
    """
    if item.questions is not None:
        given = [
            Asked(q["sub_task"], q["kind"], q["problem_type"], q["question"], q["answer"], tuple(q["options"]))
            for q in item.questions
            if q["sub_task"] in config.sub_tasks
        ]
        return _structs(item, given, None)
    rng = np.random.default_rng([seed, int(item.probed.digest[:16], 16)])
    distortions = item.distortions or []
    largest = max((d["significance"] for d in distortions), default=0.0)
    key = [d for d in distortions if d["significance"] == largest]
    subject = _Subject(item, distortions, key, config, rng)
    asked = [question for name in config.sub_tasks for question in _EXPANSIONS[name](subject)]
    return _structs(item, asked, item.source_row)


def _structs(item: Item, asked: Sequence[Asked], source_row: int | None) -> list[dict[str, Any]]:
    structs: dict[str, dict[str, Any]] = {}
    for q in asked:
        identity = "\n".join((item.probed.digest, q.sub_task, q.kind, q.question, q.answer))
        question_id = text_digest(identity)
        structs[question_id] = {
            "question_id": question_id,
            "category": SUB_TASKS[q.sub_task],
            "sub_task": q.sub_task,
            "kind": q.kind,
            "problem_type": q.problem_type,
            "question": q.question,
            "options": list(q.options),
            "answer": q.answer,
            "source_row": source_row,
        }
    return list(structs.values())


# ------------------------------------------------------------------------------------------------------ perception
def _choices(subject: _Subject) -> Iterator[Asked]:
    if subject.item.distortions is not None:
        for kind in subject.config.kinds:
            yield from _CHOICES[kind](subject)


def _choice(subject: _Subject, kind: str, question: str, right: str, wrong: Sequence[str]) -> Asked:
    options = subject.shuffled([right, *wrong[: subject.config.num_choices - 1]])
    asked = wording.choice_question(question, options)
    return Asked("mcq", kind, "choice", asked, wording.letter(options.index(right)), tuple(options))


def _type_choice(subject: _Subject) -> Iterator[Asked]:
    wrong = subject.absent()
    if not subject.distortions:
        yield _choice(subject, "type", wording.WHICH_MOST, wording.NO_DISTORTION, wrong)
    elif subject.named_key:
        if subject.rng.random() < _NO_DISTORTION_OPTION:
            wrong.insert(0, wording.NO_DISTORTION)
        yield _choice(subject, "type", wording.WHICH_MOST, subject.named_key["distortion"], wrong)


def _severity_choice(subject: _Subject) -> Iterator[Asked]:
    if not subject.distortions:
        yield _choice(subject, "severity", wording.HOW_SEVERE, wording.NOT_VISIBLE, subject.shuffled(SEVERITIES))
    elif subject.named_key:
        severity = subject.named_key["severity"]
        wrong = subject.shuffled([grade for grade in (wording.NOT_VISIBLE, *SEVERITIES) if grade != severity])
        yield _choice(subject, "severity", wording.HOW_SEVERE, severity, wrong)


def _position_choice(subject: _Subject) -> Iterator[Asked]:
    if subject.named_key and not _parts(subject):
        position = subject.named_key["position"]
        wrong = subject.shuffled([other for other in POSITIONS if other != position])
        yield _choice(subject, "position", wording.WHERE_MOST, position, wrong)


def _significance_choice(subject: _Subject) -> Iterator[Asked]:
    wrong = _parts(subject)
    if subject.named_key and wrong:
        yield _choice(subject, "significance", wording.WHICH_PART, subject.named_key["position"], wrong)


def _parts(subject: _Subject) -> list[str]:
    """Where the lesser distortions are, if the key distortion is elsewhere."""
    own = subject.named_key["position"] if subject.named_key else None
    return subject.shuffled([p for p in dict.fromkeys(d["position"] for d in subject.distortions) if p != own])


def _open_question(subject: _Subject) -> Iterator[Asked]:
    if subject.item.distortions is not None:
        if not subject.distortions:
            yield Asked("qa", "qa", "free_form", wording.MOST_SIGNIFICANT, f"{wording.NO_DISTORTION}.")
        elif subject.named_key:
            yield Asked("qa", "qa", "free_form", wording.MOST_SIGNIFICANT, wording.phrase(subject.named_key))
    elif subject.item.level:
        yield Asked("qa", "qa", "free_form", wording.LEVEL, subject.item.level)


def _score(subject: _Subject) -> Iterator[Asked]:
    if subject.item.mos is not None:
        yield Asked("score", "score", "mos", wording.SCORE, f"{subject.item.mos:.2f}")


# ---------------------------------------------------------------------------------------------------- localisation
def _detection(subject: _Subject) -> Iterator[Asked]:
    if subject.item.distortions is not None:
        answer = wording.detections(subject.distortions)
        yield Asked("dist_detect", "dist_detect", "detection", wording.DETECTION, answer)


def _grounding(subject: _Subject) -> Iterator[Asked]:
    phrases = Counter(wording.phrase(d) for d in subject.distortions)
    for d in subject.distortions:
        if phrases[wording.phrase(d)] == 1:
            question = wording.grounding_question(d)
            yield Asked("ref_grounding", "ref_grounding", "grounding", question, wording.box_text(d["box"]))


def _regions(subject: _Subject) -> Iterator[Asked]:
    if subject.item.distortions is None:
        return
    regions: list[tuple[Box, str]] = []
    for d in subject.shuffled(subject.distortions):
        others = [o for o in subject.distortions if o is not d and wording.phrase(o) != wording.phrase(d)]
        if all(_covered(d["box"], o["box"]) < _SHARED_REGION for o in others):
            regions.append((d["box"], wording.phrase(d)))
    regions = regions[: subject.config.regions_per_image]
    if len(regions) < subject.config.regions_per_image:
        clean = _clean_region(subject)
        regions += [(clean, wording.NEGATIVE_REGION)] if clean else []
    for box, answer in regions:
        yield Asked("reg_perception", "reg_perception", "region", wording.region_question(box), answer)


def _covered(box: Box, other: Box) -> float:
    """Share of box that other covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))


def _clean_region(subject: _Subject, tries: int = 24) -> Box | None:
    """A box that no distortion touches, or None where none was found."""
    for _ in range(tries):
        width, height = (int(side) for side in subject.rng.integers(250, 501, size=2))
        x1 = int(subject.rng.integers(0, BOX_SCALE - width + 1))
        y1 = int(subject.rng.integers(0, BOX_SCALE - height + 1))
        box = [x1, y1, x1 + width, y1 + height]
        if all(_covered(box, d["box"]) == 0 for d in subject.distortions):
            return box
    return None


# ----------------------------------------------------------------------------------------------------- description
def _description(subject: _Subject) -> Iterator[Asked]:
    level = subject.item.level
    if subject.item.distortions is not None and level:
        answer = wording.description_answer(subject.item.content, subject.distortions, subject.key, level)
        yield Asked("assess", "assess", "description", wording.DESCRIPTION, answer)


def _brief(subject: _Subject) -> Iterator[Asked]:
    level = subject.item.level
    if subject.item.distortions is not None and level and (subject.named_key or not subject.distortions):
        answer = wording.brief_answer(level, subject.named_key)
        yield Asked("brief_assess", "brief_assess", "brief", wording.BRIEF, answer)


def _per_distortion(subject: _Subject) -> Iterator[Asked]:
    for d in subject.once():
        question = wording.distortion_question(d["distortion"])
        yield Asked("dist_assess", "dist_assess", "distortion", question, wording.distortion_answer(d))


_CHOICES: dict[str, Callable[[_Subject], Iterator[Asked]]] = {
    "type": _type_choice,
    "severity": _severity_choice,
    "position": _position_choice,
    "significance": _significance_choice,
}
_EXPANSIONS: dict[str, Callable[[_Subject], Iterator[Asked]]] = {
    "mcq": _choices,
    "qa": _open_question,
    "score": _score,
    "dist_detect": _detection,
    "ref_grounding": _grounding,
    "reg_perception": _regions,
    "assess": _description,
    "brief_assess": _brief,
    "dist_assess": _per_distortion,
}
assert set(_EXPANSIONS) == set(SUB_TASKS)
