"""Reading ViDA-UGC's phrases and sentences: severities, distortion names, levels, descriptions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_contracts.records import DISTORTIONS, LEVELS
from tasks.rewards.answers.boxes import Box, LabelledBox, find_boxes, read_boxes
from tasks.rewards.answers.choice import clean_text

NO_DISTORTION = "No distortion"
SEVERITY_WORDS = {"minor": "Minor", "slight": "Minor", "moderate": "Moderate", "severe": "Severe"}
_NEGATIVE = {
    "no distortion",
    "no distortions",
    "no distortion affects this region",
    "none",
    "there is no distortion",
    "there is no distortion in the image",
}


def _name_key(name: str) -> str:
    words = clean_text(name.replace("-", " ").replace("_", " "))
    return words.removesuffix("s").removesuffix(" effect")


_BY_KEY = {_name_key(name): name for name in DISTORTIONS}
_LEVEL_LINE = re.compile(r"(?:thus,?\s{1,4})?the\s{1,4}quality of (?:the|this) image is (\w{1,16})\.?", re.IGNORECASE)
_LEVEL_SAID = re.compile(r"quality of (?:the|this) image is", re.IGNORECASE)
_BRIEF = re.compile(
    r"the quality of (?:the|this) image is (\w{1,16})[;,.] (?:its|the) key distortion is (.{1,80}?)\.?"
    r"|the quality of (?:the|this) image is (\w{1,16})[;,.] it has no distortion\.?",
    re.IGNORECASE,
)
_DISTORTION = re.compile(
    r"(.{1,80}?) affects the (.{1,40}?) of the image\s{0,4}(<\|box_start\|>.{1,80}<\|box_end\|>)\.?", re.IGNORECASE
)


def canonical_distortion(name: str) -> str | None:
    """ViDA's spelling of a distortion's name: any case, hyphens, plural or singular, with or without "effect"."""
    return _BY_KEY.get(_name_key(name)) if len(name) <= 120 else None


@dataclass(frozen=True)
class Phrase:
    """severity: one of SEVERITIES, "" if the phrase names none. distortion: ViDA's spelling, or "No distortion"."""

    severity: str
    distortion: str


def read_phrase(field: str | None) -> Phrase | None:
    """ "Moderate noise", "noise", "Slight low clarity." (= Minor), "No distortion affects this region."; else None."""
    if field is None or len(field) > 200:
        return None
    text = clean_text(field)
    if text in _NEGATIVE:
        return Phrase("", NO_DISTORTION)
    first, _, rest = text.partition(" ")
    severity = SEVERITY_WORDS.get(first, "")
    name = canonical_distortion(rest if severity else text)
    return Phrase(severity, name) if name else None


def class_of(label: str) -> str:
    """The class a labelled box is matched by: the distortion without its severity, in ViDA's spelling where it is
    known.

    An unknown name is its own class (lower case), as in the official scorer.
    """
    phrase = read_phrase(label)
    if phrase:
        return phrase.distortion
    first, _, rest = clean_text(label).partition(" ")
    return rest if first in SEVERITY_WORDS else clean_text(label)


def severity_of(label: str) -> str:
    """The severity a labelled box names, "" if none."""
    return SEVERITY_WORDS.get(clean_text(label).partition(" ")[0], "")


def read_level(text: str | None) -> str | None:
    """One of LEVELS from "excellent" or "Thus, the quality of the image is excellent."; else None."""
    if text is None or len(text) > 200:
        return None
    sentence = _LEVEL_LINE.fullmatch(text.strip())
    word = sentence.group(1).lower() if sentence else clean_text(text)
    return word if word in LEVELS else None


def read_detections(field: str | None) -> list[LabelledBox] | None:
    """Labelled boxes of a detection answer; [] for "No distortion."; None if the field is anything else."""
    if field is not None and len(field) <= 200 and clean_text(field) in _NEGATIVE:
        return []
    return read_boxes(field)


@dataclass(frozen=True)
class Description:
    """content: first line, not scored. distortions, key: labelled boxes, in the order of the text, repeats dropped."""

    content: str
    distortions: tuple[LabelledBox, ...]
    key: tuple[LabelledBox, ...]
    level: str


def read_description(field: str | None) -> Description | None:
    """ViDA's detailed answer: content; distortions with boxes (one or more lines); overall + key distortions; level.

    The last line is "Thus, the quality of the image is <level>.", said nowhere else; the line before it names the key
    distortions after "key distortions:" or in its first sentence; all boxes are distortions, as in the official
    extraction. None if the level or a line is missing.
    """
    if field is None:
        return None
    lines = [line.strip() for line in field.split("\n") if line.strip()]
    if len(lines) < 4 or read_level(lines[-1]) is None or len(_LEVEL_SAID.findall(field)) != 1:
        return None
    return scan_description(field)


def scan_description(field: str | None) -> Description:
    """What can be had of a description, however incomplete, as the official extraction does for its metrics.

    level is "" where the last line names none.
    """
    lines = [line.strip() for line in (field or "").split("\n") if line.strip()]
    if not lines:
        return Description("", (), (), "")
    overall = lines[-2] if len(lines) > 1 else ""
    marker = max(overall.lower().rfind("key distortions:"), overall.lower().rfind("key distortion:"))
    key = find_boxes(overall[marker:] if marker >= 0 else overall.split(".", 1)[0])
    return Description(
        lines[0], _without_repeats(find_boxes(field or "")), _without_repeats(key), read_level(lines[-1]) or ""
    )


def _without_repeats(boxes: list[LabelledBox]) -> tuple[LabelledBox, ...]:
    first: dict[tuple[str, Box], LabelledBox] = {}
    for box in boxes:
        first.setdefault((clean_text(box.label), box.box), box)
    return tuple(first.values())


@dataclass(frozen=True)
class Brief:
    level: str
    phrase: Phrase


def read_brief(field: str | None) -> Brief | None:
    """ "The quality of the image is poor; its key distortion is severe noise." or "..; it has no distortion."; else
    None.
    """
    found = _BRIEF.fullmatch(field.strip()) if field is not None and len(field) <= 400 else None
    if found is None:
        return None
    level = read_level(found.group(1) or found.group(3))
    phrase = read_phrase(found.group(2)) if found.group(2) else Phrase("", NO_DISTORTION)
    return Brief(level, phrase) if level and phrase else None


@dataclass(frozen=True)
class AffectedRegion:
    phrase: Phrase
    position: str
    box: LabelledBox


def read_affected_region(field: str | None) -> AffectedRegion | None:
    """ "Severe noise affects the top left of the image <|box_start|>(..),(..)<|box_end|>."; else None."""
    found = _DISTORTION.fullmatch(field.strip()) if field is not None and len(field) <= 400 else None
    if found is None:
        return None
    phrase, boxes = read_phrase(found.group(1)), read_boxes(found.group(3))
    return (
        AffectedRegion(phrase, clean_text(found.group(2)), boxes[0]) if phrase and boxes and len(boxes) == 1 else None
    )
