"""The one place where text is read: every reward, metric and check reads answers through these modules.

turn: tags, boxed, numbered answers; choice: letters and options; numbers: quantities; boxes; spans: time; quality:
ViDA-UGC's phrases and descriptions. A reader takes the entire answer field or returns None; none of them raises.
"""

from tasks.rewards.answers.boxes import LabelledBox, find_boxes, read_boxes, to_norm1000
from tasks.rewards.answers.choice import option_texts, read_choice
from tasks.rewards.answers.numbers import Quantity, read_number, read_quantity
from tasks.rewards.answers.quality import (
    canonical_distortion,
    class_of,
    read_affected_region,
    read_brief,
    read_description,
    read_detections,
    read_level,
    read_phrase,
    scan_description,
)
from tasks.rewards.answers.turn import Turn, has_format, read_turn, split_numbered

__all__ = [
    "LabelledBox",
    "Quantity",
    "Turn",
    "canonical_distortion",
    "class_of",
    "find_boxes",
    "has_format",
    "option_texts",
    "read_affected_region",
    "read_boxes",
    "read_brief",
    "read_choice",
    "read_description",
    "read_detections",
    "read_level",
    "read_number",
    "read_phrase",
    "read_quantity",
    "read_turn",
    "scan_description",
    "split_numbered",
    "to_norm1000",
]
