"""Reading boxes, with or without labels, as the entire answer field.

Two spellings: Qwen2-VL's tokens (ViDA-UGC) and JSON or plain lists (Qwen2.5-VL, VideoChat-R1, VLM-R1). Three declared
scales: ``norm1000`` (integers 0..1000, as in every dataset here), ``unit`` (0..1), ``pixels`` (needs width and height).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]

_N = r"\s{0,4}([+-]?\d{1,7}(?:\.\d{1,17})?)\s{0,4}"
_BOX = re.compile(rf"<\|box_start\|>\s{{0,4}}\({_N},{_N}\)\s{{0,4}},\s{{0,4}}\({_N},{_N}\)\s{{0,4}}<\|box_end\|>")
_LABEL = re.compile(r"<\|object_ref_start\|>([^<>]{1,120})<\|object_ref_end\|>")
_HEADING = re.compile(
    r"([A-Za-z][A-Za-z -]{2,60}):\s{1,4}<\|object_ref_start\|>[^<>]{0,80}?(?i:\1)<\|object_ref_end\|>"
)
_BETWEEN = re.compile(r"[\s,;.]{1,64}")
_FENCE = re.compile(r"```(?:json)?\s{0,8}(.*?)\s{0,8}```", re.DOTALL)


@dataclass(frozen=True)
class LabelledBox:
    """A box and the phrase that names it ("" if none)."""

    label: str
    box: Box


def read_boxes(field: str | None) -> list[LabelledBox] | None:
    """All boxes of a field that holds nothing but boxes; None if it holds anything else or no box.

    Token form: ``<|object_ref_start|>label<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>``, joined by
    commas or white space; a label names every box up to the next label; ViDA's heading "Noise: " before a label is
    skipped. List form: ``[x1,y1,x2,y2]``, a list of such, or a list of objects with ``bbox_2d`` / ``bbox`` / ``box``
    and ``label``.
    """
    if field is None:
        return None
    text = field.strip()
    if text.startswith(("[", "{", "```")):
        return _from_json(text)
    boxes, label, at = [], "", 0
    while at < len(text):
        if box := _BOX.match(text, at):
            boxes.append(LabelledBox(label, _box(box.groups())))
            at = box.end()
        elif name := _LABEL.match(text, at):
            label, at = name.group(1).strip(), name.end()
        elif between := _BETWEEN.match(text, at):
            at = between.end()
        elif heading := _HEADING.match(text, at):
            at = heading.end(1) + 1
        else:
            return None
    return boxes or None


def find_boxes(text: str) -> list[LabelledBox]:
    """All boxes in token form that stand anywhere in a text, each with the label right before it (or before its
    run).
    """
    boxes: list[LabelledBox] = []
    label, label_end = "", -1
    at = text.find("<|")
    while at >= 0:
        step = at + 2
        if name := _LABEL.match(text, at):
            label, label_end = name.group(1).strip(), name.end()
            step = name.end()
        elif box := _BOX.match(text, at):
            boxes.append(
                LabelledBox(label if label_end >= 0 and not text[label_end:at].strip(" ,") else "", _box(box.groups()))
            )
            label_end = step = box.end()
        at = text.find("<|", step)
    return boxes


def _box(numbers: Any) -> Box:
    x1, y1, x2, y2 = (float(n) for n in numbers)
    return x1, y1, x2, y2


def _from_json(text: str) -> list[LabelledBox] | None:
    fenced = _FENCE.fullmatch(text)
    try:
        tree = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    if isinstance(tree, dict) or _is_box(tree):
        tree = [tree]
    if not isinstance(tree, list):
        return None
    boxes = []
    for node in tree:
        label = ""
        if isinstance(node, dict):
            label = str(node.get("label", ""))
            node = next((node[key] for key in ("bbox_2d", "bbox", "box") if key in node), None)
        if not _is_box(node):
            return None
        boxes.append(LabelledBox(label, _box(node)))
    return boxes or None


def read_track(field: str | None) -> list[Box] | None:
    """The boxes of `[[x1, y1, x2, y2], ..]`, the one spelling of a track (VideoChat-R1); else None."""
    try:
        tree = json.loads(field or "")
    except (ValueError, RecursionError):
        return None
    return [_box(node) for node in tree] if isinstance(tree, list) and tree and all(map(_is_box, tree)) else None


def _is_box(node: Any) -> bool:
    return (
        isinstance(node, list)
        and len(node) == 4
        and all(
            isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e9 and math.isfinite(n) for n in node
        )
    )


def to_norm1000(box: Box, scale: str, width: float = 0, height: float = 0) -> Box:
    """A box of a declared scale in 0..1000 of width and height. Raises ValueError on an unknown scale or missing
    size.
    """
    if scale == "norm1000":
        return box
    if scale == "unit":
        width = height = 1.0
    elif scale != "pixels":
        raise ValueError(f"unknown box scale {scale!r}: norm1000, unit or pixels")
    if not (width > 0 and height > 0):
        raise ValueError("boxes in pixels need the picture's width and height")
    x1, y1, x2, y2 = box
    return 1000 * x1 / width, 1000 * y1 / height, 1000 * x2 / width, 1000 * y2 / height
