"""From a question and the evidence to answers, the likeliest first: the measured teacher's n-th try is the n-th.

What the question asks for is read from its words and options (ViDA-UGC's wordings); one that names nothing measurable
gets no answer. Answers stand in the student's form, boxes 0..1000. Ours, not of a paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from data_contracts.records import BOX_SCALE, DISTORTIONS, LEVELS, SEVERITIES
from tasks.annotate.evidence import LEAST_GAIN, WHOLE, Box, Evidence, Found
from tasks.annotate.reasons import choosing, not_seen, nothing_unusual, phrase, suggesting, telling
from tasks.annotate.teacher import Row
from tasks.media.positions import POSITIONS, WHOLE_PICTURE, position_of
from tasks.rewards.boxes import question_box

Try = tuple[str, str]  # reasoning, answer
Seen = tuple[str, str]  # what was observed, the option it speaks for
NO_DISTORTION = "No distortion"
NOT_VISIBLE = "Not visible"
NEGATIVE_REGION = "No distortion affects this region."
_SCORE_STEP = 0.7  # between one try's opinion score and the next's


def tries(question: Row, evidence: Evidence) -> list[Try]:
    """Reasoning and answer of every hypothesis, the likeliest first; none where nothing measurable is asked."""
    answer = _TRIES.get(question["problem_type"])
    return answer(question, evidence) if answer else []


def named_distortion(text: str) -> str | None:
    """The distortion that a text names, by ViDA-UGC's name in any case."""
    lowered = text.lower()
    return next((name for name in DISTORTIONS if name.lower() in lowered), None)


# ------------------------------------------------------------------------------------------------------- questions
def _choice(question: Row, evidence: Evidence) -> list[Try]:
    options: Sequence[str] = question["options"] or []
    asked = named_distortion(question["question"].split("\n")[0])
    lowered = [option.lower() for option in options]
    if any(option in (*map(str.lower, SEVERITIES), NOT_VISIBLE.lower()) for option in lowered):
        ranked = _by_severity(evidence, asked) if asked else _severities_of_key(evidence)
    elif not any(map(named_distortion, options)) and any(option in POSITIONS for option in lowered):
        ranked = _by_position(evidence, asked) if asked else _positions_of_key(evidence)
    elif any(option in LEVELS for option in lowered):
        ranked = [(_of_quality(evidence), level) for level in _levels(evidence)]
    else:
        ranked = _by_name(evidence, options)
    observed: dict[str, str] = {}
    for seen, option in ranked:
        observed.setdefault(option.lower(), seen)
    chosen = [option for option in observed if option in lowered]
    chosen += [option for option in lowered if chosen and option not in chosen]
    tried = []
    for option in chosen:
        number = lowered.index(option)
        letter = chr(ord("A") + number)
        tried.append((choosing(observed.get(option, observed[chosen[0]]), options[number], letter), letter))
    return tried


def _severities_of_key(evidence: Evidence) -> list[Seen]:
    return [(seen, one.severity if one else NOT_VISIBLE) for one, seen in _key_distortions(evidence)]


def _positions_of_key(evidence: Evidence) -> list[Seen]:
    return [(seen, position_of(one.box)) for one, seen in _key_distortions(evidence) if one]


def _by_severity(evidence: Evidence, distortion: str) -> list[Seen]:
    best = evidence.candidates(distortion, num=1)[0]
    grades = evidence.grades(distortion, best.box)
    seen = best.gain >= LEAST_GAIN
    ranked = [(grades[severity], severity) for severity in SEVERITIES]
    ranked.append((max(grades.values()) + 1 if not seen else LEAST_GAIN, NOT_VISIBLE))
    return [
        (not_seen(evidence, distortion), option)
        if option == NOT_VISIBLE
        else (telling(evidence, Found(distortion, option, best.box, gain)), option)
        for gain, option in sorted(ranked, reverse=True)
    ]


def _by_position(evidence: Evidence, distortion: str) -> list[Seen]:
    """Positions of the likeliest boxes, then the others by what stands there."""
    severity = evidence.candidates(distortion, num=1)[0].severity
    elsewhere = [
        Found(distortion, severity, box, evidence.grades(distortion, box)[severity]) for box in map(_place, POSITIONS)
    ]
    ranked = [*evidence.candidates(distortion), *sorted(elsewhere, key=lambda one: -one.gain)]
    return [(telling(evidence, one), position_of(one.box)) for one in ranked]


def _place(position: str) -> Box:
    """The part of the picture that a position names."""
    if position == WHOLE_PICTURE:
        return WHOLE
    row, column = divmod(POSITIONS.index(position), 3)
    x1, y1, x2, y2 = (round(BOX_SCALE * edge / 3) for edge in (column, row, column + 1, row + 1))
    return x1, y1, x2, y2


def _by_name(evidence: Evidence, options: Sequence[str]) -> list[Seen]:
    """Options that name a distortion, perhaps with its place ("Noise, top left"), or say that there is none."""
    ranked: list[tuple[float, Seen]] = []
    for option in options:
        name = named_distortion(option)
        if name is not None:
            position = option.rpartition(", ")[2]
            candidates = evidence.candidates(name)
            there = [one for one in candidates if position in POSITIONS and position_of(one.box) == position]
            one = (there or candidates)[0]
            ranked.append((_significance(evidence, one), (telling(evidence, one), option)))
        elif option.lower().startswith(NO_DISTORTION.lower()):
            ranked.append((0.5, (nothing_unusual(evidence), option)))
    return [seen for _, seen in sorted(ranked, key=lambda one: -one[0])]


def _significance(evidence: Evidence, one: Found) -> float:
    """Above 1 for a distortion that was found, by its harm; below for others, by their gain."""
    if one in evidence.found:
        return 1.0 + one.harm
    return one.gain / (one.gain + 4 * LEAST_GAIN) if one.gain > 0 else one.gain


def _free_form(question: Row, evidence: Evidence) -> list[Try]:
    if "level" in question["question"].lower():
        return [(_level_reason(evidence, level), level) for level in _levels(evidence)]
    return [
        (_reason(evidence, one), phrase(one)) if one else (_no_distortion(evidence), NO_DISTORTION)
        for one, _ in _key_distortions(evidence)
    ]


def _score(question: Row, evidence: Evidence) -> list[Try]:
    estimate = evidence.opinion_score
    answers = []
    for step in (0, -1, 1, -2, 2):
        score = min(5.0, max(1.0, estimate + step * _SCORE_STEP))
        answers.append((suggesting(_of_quality(evidence), f"a score near {score:.1f}"), f"{score:.2f}"))
    return answers


def _detection(question: Row, evidence: Evidence) -> list[Try]:
    return [
        (_reason(evidence, found[0]) if found else _no_distortion(evidence), _labelled(found))
        for found in _detections(evidence)
    ]


def _grounding(question: Row, evidence: Evidence) -> list[Try]:
    asked = question["question"].lower()
    name = named_distortion(asked)
    severity = next((severity for severity in SEVERITIES if severity.lower() in asked), None)
    boxes = evidence.candidates(name, severity) if name else evidence.found or [_strongest(evidence)]
    return [(_reason(evidence, one), _box_text(one.box)) for one in boxes]


def _region(question: Row, evidence: Evidence) -> list[Try]:
    asked = question_box(question["question"])
    box: Box = WHOLE if asked is None else _ints(asked.box)
    first, second, third = evidence.in_box(box)[:3]
    ranked: list[Try] = [(_reason(evidence, one), phrase(one)) for one in (first, second, third)]
    grades = evidence.grades(first.distortion, box)
    severity = sorted(SEVERITIES, key=lambda name: -grades[name])[1]
    other = Found(first.distortion, severity, box, grades[severity])
    ranked.insert(2, (_reason(evidence, other), phrase(other)))
    clean = (_no_distortion(evidence, box), NEGATIVE_REGION)
    ranked.insert(0 if first.gain < LEAST_GAIN else 2, clean)
    return ranked


def _distortion(question: Row, evidence: Evidence) -> list[Try]:
    name = named_distortion(question["question"])
    first = evidence.found[0] if evidence.found else _strongest(evidence)
    boxes = evidence.candidates(name or first.distortion)
    ranked = []
    for place, severity_rank in _likeliest(len(boxes), len(SEVERITIES)):
        grades = evidence.grades(boxes[place].distortion, boxes[place].box)
        severity = sorted(SEVERITIES, key=lambda grade: -grades[grade])[severity_rank]
        one = Found(boxes[place].distortion, severity, boxes[place].box, grades[severity])
        position = position_of(one.box)
        where = "whole" if position == WHOLE_PICTURE else position
        answer = f"{phrase(one)} affects the {where} of the image {_box_text(one.box)}."
        ranked.append((_reason(evidence, one), answer))
    return ranked


def _brief(question: Row, evidence: Evidence) -> list[Try]:
    ranked = []
    keys, levels = _key_distortions(evidence), _levels(evidence)
    for key, grade in _likeliest(len(keys), len(levels)):
        one, _ = keys[key]
        rest = f"its key distortion is {phrase(one).lower()}." if one else "it has no distortion."
        reason = _reason(evidence, one) if one else _no_distortion(evidence)
        ranked.append((reason, f"The quality of the image is {levels[grade]}; {rest}"))
    return ranked


def _description(question: Row, evidence: Evidence) -> list[Try]:
    ranked = []
    lists, levels = _detections(evidence), _levels(evidence)
    for guess, grade in _likeliest(len(lists), len(levels)):
        found, level = lists[guess], levels[grade]
        overall = f"Overall: the quality is lowered; key distortions: {_labelled(found[:1])}"
        lines = (
            _content(evidence),
            f"Distortions: {_labelled(found)}",
            overall if found else "Overall: nothing lowers the quality; key distortions: none.",
            f"Thus, the quality of the image is {level}.",
        )
        ranked.append((_level_reason(evidence, level), "\n".join(lines)))
    return ranked


_TRIES: dict[str, Callable[[Row, Evidence], list[Try]]] = {
    "choice": _choice,
    "mos": _score,
    "detection": _detection,
    "grounding": _grounding,
    "region": _region,
    "description": _description,
    "brief": _brief,
    "distortion": _distortion,
    "free_form": _free_form,
}


# --------------------------------------------------------------------------------------------------------- rankings
def _key_distortions(evidence: Evidence) -> list[tuple[Found | None, str]]:
    """What harms most, and what was observed: found, the first at its next severity, what may be there, nothing."""
    found = evidence.found
    ranked: list[Found | None] = [*found] if found else [None]
    if found:
        grades = evidence.grades(found[0].distortion, found[0].box)
        severity = sorted((grade for grade in SEVERITIES if grade != found[0].severity), key=lambda g: -grades[g])[0]
        ranked.insert(min(2, len(ranked)), Found(found[0].distortion, severity, found[0].box, grades[severity]))
    names = {one.distortion for one in found}
    others = [evidence.candidates(name, num=1)[0] for name in DISTORTIONS if name not in names]
    ranked += sorted(others, key=lambda one: -one.gain)[:2]
    ranked += [None] if found else []
    return [(one, telling(evidence, one) if one else nothing_unusual(evidence)) for one in ranked]


def _detections(evidence: Evidence) -> list[list[Found]]:
    """Lists of distortions: what was found, its most harmful one alone, without the last, and the strongest guess."""
    found = evidence.found
    lists = [found, found[:1], found[:-1]] if len(found) > 1 else [found]
    lists.append([] if found else [_strongest(evidence)])
    return [one for number, one in enumerate(lists) if one not in lists[:number]]


def _levels(evidence: Evidence) -> list[str]:
    """Levels, the one whose middle is nearest to the opinion score first."""
    middles = {level: 1.4 + 0.8 * number for number, level in enumerate(LEVELS)}
    return sorted(LEVELS, key=lambda level: abs(middles[level] - evidence.opinion_score))


def _likeliest(num_first: int, num_second: int) -> list[tuple[int, int]]:
    """Ranks of two independent guesses, those that are likeliest together first."""
    return sorted(product(range(num_first), range(num_second)), key=sum)


def _strongest(evidence: Evidence) -> Found:
    return max((evidence.candidates(name, num=1)[0] for name in DISTORTIONS), key=lambda one: one.gain)


# ------------------------------------------------------------------------------------------------------------ words
def _reason(evidence: Evidence, one: Found) -> str:
    return suggesting(telling(evidence, one), phrase(one).lower())


def _no_distortion(evidence: Evidence, box: Box = WHOLE) -> str:
    return suggesting(nothing_unusual(evidence, box), NO_DISTORTION.lower())


def _level_reason(evidence: Evidence, level: str) -> str:
    return suggesting(_of_quality(evidence), f"{level} quality")


def _of_quality(evidence: Evidence) -> str:
    return telling(evidence, evidence.found[0]) if evidence.found else nothing_unusual(evidence)


def _labelled(found: Sequence[Found]) -> str:
    texts = [f"<|object_ref_start|>{phrase(one)}<|object_ref_end|>{_box_text(one.box)}" for one in found]
    return ", ".join(texts) or f"{NO_DISTORTION}."


def _box_text(box: Box) -> str:
    x1, y1, x2, y2 = box
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def _ints(box: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (round(edge) for edge in box)
    return x1, y1, x2, y2


def _content(evidence: Evidence) -> str:
    values, _ = evidence.mean(WHOLE)
    brightness = "dark" if values["exposure"] < 85 else "bright" if values["exposure"] > 170 else "evenly lit"
    return f"The picture is {brightness} and {'colorful' if values['colorfulness'] > 40 else 'pale'}."
