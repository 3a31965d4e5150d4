"""Sampling from a student: each prompt and picture is computed once for all its rollouts.

Departs from `transformers.generate`, which repeats prompt and picture per rollout: here the prompt's key-value cache is
repeated instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student
    from tasks.student.encode import Prompt


@dataclass(frozen=True)
class Completion:
    """One sampled turn.

    text: without the closing token, boxes 0..1000. token_ids: as sampled (the student's own box convention), the closing
    ``<|im_end|>`` included unless truncated. truncated: cut at max_new_tokens.
    """

    text: str
    token_ids: list[int]
    truncated: bool


def generate(
    student: Student,
    prompts: Sequence[Prompt],
    *,
    num_rollouts: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """``num_rollouts`` completions per prompt, in the order of the prompts.

    temperature 0 is greedy. batch_size: completions at once. seed: the only source of randomness; equal seeds give equal
    completions. on_progress(done, total) counts completions. Tokens of media and chat structure are never sampled.
    """
    raise NotImplementedError
