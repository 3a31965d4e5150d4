"""What the MIPI organisers' scorer reads of a submission and its reference, metric by metric.

    for picture, boxes in MAPS["region_map"](submission, reference).predicted.items(): ..
    for counted in RATIOS["perception_accuracy"](submission, reference): ..

Rules of the released scorer for the maps: predicted boxes count in the order of the submission, grouped by picture; a
picture has its place from its first box that counts. Boxes about pictures without gold are false positives. The golds
of every picture count, whether the submission speaks of it or not. A box needs four coordinates, else it does not
count. "No distortion" is left out of the region mAP, on both sides; in the other maps it is a class like any other.
Key distortions and quality levels are shares of what the submission says.

An entry that stops the released scorer, which then gives 0 for the whole metric, raises `Unscorable` here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from tasks.rewards.answers.boxes import Box
from tasks.rewards.answers.quality import NO_DISTORTION
from tasks.rewards.average_precision import ClassBox
from tasks.rewards.boxes import box_iou
from tasks.rewards.metrics.documents import DETECTION, REGION, Document, Reference, Submission

KEY_IOU = 0.5  # strictly above
OTHER_COORDINATES = ("pred_coords", "coords")  # read in grounding answers whose ``coordinates`` are missing or empty

BoxesByPicture = dict[str, list[ClassBox]]


class Unscorable(ValueError):
    """An entry for which the official scorer gives 0 for the whole metric; the message names it."""


class Boxes(NamedTuple):
    """What a mAP compares."""

    gold: BoxesByPicture
    predicted: BoxesByPicture


class Counted(NamedTuple):
    """An answer's part in the ratio ``metric``: right out of total, about a picture."""

    metric: str
    picture: str
    right: int
    total: int = 1


# ------------------------------------------------------------------------------------------------------------ the maps
def region_boxes(submission: Submission, reference: Reference) -> Boxes:
    """Regions named: answers to region questions, also those without ``question_type``."""
    asked = [item for item in submission.grounding if item.get("question_type", REGION) == REGION]
    return _compared(
        boxes_by_picture(reference.regions, "distortions", negatives=False),
        boxes_by_picture(asked, "distortions", negatives=False, others=OTHER_COORDINATES),
    )


def distortion_boxes(submission: Submission, reference: Reference) -> Boxes:
    """Distortions found: answers to detection and to region questions, against all distortions of all pictures."""
    return _grounded(submission, reference, (DETECTION, REGION))


def detection_boxes(submission: Submission, reference: Reference) -> Boxes:
    """Ours: as `distortion_boxes`, of the answers to detection questions alone."""
    return _grounded(submission, reference, (DETECTION,))


def description_boxes(submission: Submission, reference: Reference) -> Boxes:
    """Distortions described, against all distortions of all pictures; names without regard to case."""
    return _compared(
        boxes_by_picture(reference.metadata, "distortions", name_of=plain_name),
        boxes_by_picture(submission.description, "all_distortions", name_of=plain_name),
    )


def _grounded(submission: Submission, reference: Reference, question_types: Sequence[str]) -> Boxes:
    asked = [item for item in submission.grounding if item.get("question_type") in question_types]
    return _compared(
        boxes_by_picture(reference.metadata, "distortions"),
        boxes_by_picture(asked, "distortions", others=OTHER_COORDINATES),
    )


def boxes_by_picture(
    items: Iterable[Document],
    field: str,
    *,
    negatives: bool = True,
    others: Sequence[str] = (),
    name_of: Callable[[Any], Any] = lambda name: name,
) -> BoxesByPicture:
    """Picture -> (class, box) of the entries in a field of the items, in their order.

    negatives: count "No distortion". others: fields that may hold the coordinates instead. name_of: class of a name.
    """
    boxes: BoxesByPicture = {}
    for item in items:
        _need(item, "image")
        for entry in _entries(item, field):
            name = entry.get("distortion")
            if name == NO_DISTORTION and not negatives:
                continue
            corners = next(filter(None, (entry.get(key) for key in ("coordinates", *others))), ())
            if not isinstance(corners, Collection):
                raise Unscorable(f"{_called(item)}: the coordinates {corners!r} are no list")
            if len(corners) == 4:
                label = name_of(name)
                if not isinstance(label, str):
                    raise Unscorable(f"{_called(item)}: the distortion {name!r} is no text")
                x1, y1, x2, y2 = corners
                boxes.setdefault(_image(item), []).append((label, (x1, y1, x2, y2)))
    return boxes


def _compared(gold: BoxesByPicture, predicted: BoxesByPicture) -> Boxes:
    """Both, once every box that meets another of its picture and class is known to hold numbers."""
    for picture, boxes in predicted.items():
        for (name, box), (other, gold_box) in product(boxes, gold.get(picture, ())):
            if name == other and not (_holds_numbers(box) and _holds_numbers(gold_box)):
                raise Unscorable(f"picture {picture}: {name}: the coordinates {list(box)} are not four numbers")
    return Boxes(gold, predicted)


# ---------------------------------------------------------------------------------------------------------- the ratios
def choices(submission: Submission, reference: Reference) -> Iterator[Counted]:
    """Answers and questions, each sorted by ``id``, are compared place by place; both must be equally many."""
    answers, questions = _by_id(submission.perception), _by_id(reference.mcq)
    if len(answers) != len(questions):
        raise Unscorable(f"{len(answers)} answers to {len(questions)} questions; answer every question once")
    for answer, question in zip(answers, questions, strict=True):
        right = int(chosen_candidate(answer) == _need(question, "correct_ans"))
        yield Counted("perception_accuracy", question.get("image", ""), right)
        if "concern" in question:
            yield Counted(f"choice_accuracy/{question['concern']}", question.get("image", ""), right)


def chosen_candidate(answer: Document) -> Any:
    """The candidate whose capital letter is the first character of ``pred_ans``."""
    text = _need(answer, "pred_ans")
    try:
        return _need(answer, "candidates")[ord(text.strip()[0]) - ord("A")]
    except (AttributeError, LookupError, TypeError) as error:
        raise Unscorable(f"{_called(answer)}: {str(text)[:20]!r} is no capital letter of its candidates") from error


def quality_levels(submission: Submission, reference: Reference) -> Iterator[Counted]:
    """Descriptions whose level is exactly the picture's, of the descriptions of known pictures."""
    for item, picture in _described(submission, reference):
        right = int(item.get("image_quality", "") == picture.get("level", ""))
        yield Counted("image_quality_accuracy", item["image"], right)


def key_distortions(submission: Submission, reference: Reference) -> Iterator[Counted]:
    """Predicted key distortions with the name of one of the picture's and IoU > .5 with it, of all predicted ones."""
    for item, picture in _described(submission, reference):
        gold = key_entries(picture)
        if gold:
            said = _entries(item, "key_distortions")
            right = sum(_is_among(entry, gold, item) for entry in said)
            yield Counted("key_distortion_accuracy", item["image"], right, len(said))


def key_distortions_named(submission: Submission, reference: Reference) -> Iterator[Counted]:
    """Ours, the recall beside it: the pictures' key distortions that a description names and places, of all of them."""
    said: dict[str, list[Document]] = {}
    for item, _ in _described(submission, reference):
        said.setdefault(item["image"], []).extend(_entries(item, "key_distortions"))
    for picture in reference.metadata if said else ():
        gold, found = key_entries(picture), said.get(_image(picture), [])
        right = sum(_is_among(entry, found, picture) for entry in gold)
        yield Counted("key_distortion_recall", _image(picture), right, len(gold))


def key_entries(picture: Document) -> list[Document]:
    """The distortions of a picture with the highest ``significance_score`` (0 where it is not given)."""
    entries = _entries(picture, "distortions")
    scores = [entry.get("significance_score", 0) for entry in entries]
    try:
        highest = max(scores, default=0)
    except TypeError as error:
        raise Unscorable(f"{_called(picture)}: significance_score: {scores} are not all numbers") from error
    return [entry for entry, score in zip(entries, scores, strict=True) if score == highest]


def _described(submission: Submission, reference: Reference) -> Iterator[tuple[Document, Document]]:
    """Descriptions and their pictures; those of pictures that the reference does not hold are left out."""
    pictures = {_image(picture): picture for picture in reference.metadata}
    for item in submission.description:
        if _image(item) in pictures:
            yield item, pictures[item["image"]]


def _is_among(entry: Document, others: Iterable[Document], item: Document) -> bool:
    """Whether one of the others has its name and IoU > .5 with it. item: the answer it comes from, for messages."""
    name = plain_name(_need(entry, "distortion"))
    _need(entry, "coordinates")
    return any(
        name == plain_name(_need(other, "distortion")) and box_iou(_box(entry, item), _box(other, item)) > KEY_IOU
        for other in others
    )


# --------------------------------------------------------------------------------------------------------- the entries
def plain_name(name: Any) -> str:
    """A distortion's name as descriptions are compared: lower case, blanks for underscores."""
    return name.lower().replace("_", " ").strip() if isinstance(name, str) else ""


def _entries(item: Document, field: str) -> list[Document]:
    try:
        entries = list(item.get(field, []))
    except TypeError:
        entries = [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise Unscorable(f"{_called(item)}: {field} is no list of objects")
    return entries


def _box(entry: Document, item: Document) -> Box:
    """The first four coordinates."""
    corners = _need(entry, "coordinates")
    numbers = corners[:4] if isinstance(corners, list | tuple) else ()
    if len(numbers) < 4 or not _holds_numbers(numbers):
        raise Unscorable(f"{_called(item)}: the coordinates {corners!r} are not four numbers")
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


def _holds_numbers(box: Iterable[Any]) -> bool:
    return all(isinstance(number, int | float) for number in box)


def _by_id(items: Sequence[Document]) -> list[Document]:
    try:
        return sorted(items, key=lambda item: item["id"])
    except (KeyError, TypeError) as error:
        raise Unscorable(f"the items cannot be sorted by their id ({error!r})") from error


def _need(item: Document, field: str) -> Any:
    if field not in item:
        raise Unscorable(f"{_called(item)}: {field} is missing")
    return item[field]


def _image(item: Document) -> Any:
    image = _need(item, "image")
    if isinstance(image, list | dict):
        raise Unscorable(f"{_called(item)}: its image is no name")
    return image


def _called(item: Document) -> str:
    return f"item {item.get('id')}, picture {item.get('image')}" if "image" in item else f"entry {item}"[:200]


MAPS: Mapping[str, Callable[[Submission, Reference], Boxes]] = {
    "region_map": region_boxes,
    "distortion_map": distortion_boxes,
    "detection_map": detection_boxes,
    "description_map": description_boxes,
}
RATIOS: Mapping[str, Callable[[Submission, Reference], Iterator[Counted]]] = {
    "perception_accuracy": choices,
    "key_distortion_accuracy": key_distortions,
    "key_distortion_recall": key_distortions_named,
    "image_quality_accuracy": quality_levels,
}
