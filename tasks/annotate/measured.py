"""The embedded teacher: measures the picture and reasons from what it measured. No network, no model.

    reply = await PictureMeasurer().ask(request, question, sample)

It never sees the gold. Its n-th try at a question is its n-th best hypothesis, as a language model's n-th sample is
another guess. Deterministic; a request names the digest of this teacher's own source, so that the journal is asked
anew when the code changes and only then. Ours, not of a paper: ViDA-UGC's reasoning is GPT's.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from data_contracts.refs import file_digest, text_digest
from pipeline_config.schema import ConfigError
from tasks.annotate import evidence, hypotheses, reasons, typical
from tasks.annotate.evidence import LEAST_SIDE, Evidence, gather
from tasks.annotate.teacher import QUESTION_FIELDS, Row
from tasks.endpoint.request import Reply, Request
from tasks.media import measurements, positions
from tasks.media.measurements import Pixels
from tasks.student.turns import assistant_turn

_SOURCES = (evidence, hypotheses, reasons, typical, measurements, positions)
_KEPT = 64  # pictures whose evidence is kept, so that each is measured once for all its questions


@cache
def version() -> str:
    """Digest of the source that an answer depends on."""
    files = [Path(__file__), *(Path(str(module.__file__)) for module in _SOURCES)]
    return text_digest(" ".join(file_digest(file) for file in files))


class PictureMeasurer:
    """See the module."""

    name = "measured"
    max_in_flight = 64
    shown: tuple[str, ...] = QUESTION_FIELDS

    def __init__(self) -> None:
        self._evidence: OrderedDict[str, Evidence | None] = OrderedDict()

    def request(self, question: Row, sample: Row, attempt: int) -> Request:
        asked = {"problem_type": question["problem_type"], "options": list(question["options"] or [])}
        teacher = f"{self.name} {version()}"
        return Request(teacher, "", question["question"], sample["sample_id"], json.dumps(asked), attempt)

    async def ask(self, request: Request, question: Row, sample: Row) -> Reply:
        """Raises ConfigError if the picture cannot be read."""
        gathered = self._of(sample)
        if gathered is None:
            return Reply("", refusal="the picture is too small to be measured")
        ranked = hypotheses.tries(question, gathered)
        if not ranked:
            return Reply("", refusal="the question asks for nothing that is measured")
        reasoning, answer = ranked[min(request.attempt, len(ranked)) - 1]
        return Reply(assistant_turn(reasoning, answer))

    def _of(self, sample: Row) -> Evidence | None:
        """Evidence of a sample's picture; None if it is too small."""
        digest = sample["sample_id"]
        if digest not in self._evidence:
            pixels = _pixels(Path(sample["media_path"]))
            self._evidence[digest] = gather(pixels) if min(pixels.shape[:2]) >= LEAST_SIDE else None
            while len(self._evidence) > _KEPT:
                self._evidence.popitem(last=False)
        self._evidence.move_to_end(digest)
        return self._evidence[digest]

    def found(self, reply: Reply) -> None:
        """A measurement costs nothing."""

    async def close(self) -> None:
        self._evidence.clear()


def _pixels(media: Path) -> Pixels:
    try:
        with Image.open(media) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise ConfigError(f"{media}: cannot be read ({error}); run ingest again") from error
