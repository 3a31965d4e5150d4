"""Reading structured thinking: subjects with their attributes and actions, as JSON (VideoCap-R1; the layout is
ours).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_SUBJECTS = 64
MAX_WORDS_EACH = 64
_WORD = re.compile(r"\w{1,64}")
_FENCE = re.compile(r"```(?:json)?\s{0,8}(.*?)\s{0,8}```", re.DOTALL)


@dataclass(frozen=True)
class Subject:
    """A subject's name, attributes and actions, each as the set of its words, repeats dropped."""

    name: frozenset[str]
    attributes: frozenset[frozenset[str]]
    actions: frozenset[frozenset[str]]


def words_of(text: str) -> frozenset[str]:
    """Lower-case words of a text, without "a", "an", "the"."""
    return frozenset(_WORD.findall(text.casefold())) - {"a", "an", "the"}


def read_subjects(text: str | None) -> list[Subject] | None:
    """Subjects of ``{"subjects": [{"name": .., "attributes": [..], "actions": [..]}]}``, fenced or not; else None."""
    if text is None:
        return None
    fenced = _FENCE.fullmatch(text.strip())
    try:
        tree = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    return subjects_of(tree.get("subjects")) if isinstance(tree, dict) else None


def subjects_of(nodes: Any) -> list[Subject] | None:
    """Subjects of a list of mappings, or None if it is no such list or longer than MAX_SUBJECTS."""
    if not isinstance(nodes, Sequence) or isinstance(nodes, str) or len(nodes) > MAX_SUBJECTS:
        return None
    subjects = []
    for node in nodes:
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            return None
        sets = []
        for key in ("attributes", "actions"):
            texts = node.get(key, [])
            if not isinstance(texts, list) or len(texts) > MAX_WORDS_EACH or not all(isinstance(t, str) for t in texts):
                return None
            sets.append(frozenset(words for t in texts if (words := words_of(t))))
        subjects.append(Subject(words_of(node["name"]), *sets))
    return subjects
