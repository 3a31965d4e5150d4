"""Scores of rollouts, through the rewards' entry point for batches, so that rewards of a group apply."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_config.schema import PipelineConfig
from tasks.rewards.batch import score_batch
from tasks.rewards.score import Score
from tasks.student.generate import Completion


def score_rollouts(
    dialogues: Sequence[Mapping[str, Any]], completions: Sequence[Sequence[Completion]], config: PipelineConfig
) -> list[list[Score]]:
    """[prompt][rollout], as the completions; part "overlong" and the total hold the penalty, if there is one."""
    scores = score_batch(
        dialogues,
        [[c.text for c in group] for group in completions],
        config.rewards,
        truncated=[[c.truncated for c in group] for group in completions],
        num_tokens=[[len(c.token_ids) for c in group] for group in completions],
    )
    if not config.grpo.overlong.penalty_tokens:
        return scores
    return [
        [_penalised(score, completion, config) for score, completion in zip(of_prompt, group, strict=True)]
        for of_prompt, group in zip(scores, completions, strict=True)
    ]


def overlong_penalty(num_tokens: int, truncated: bool, limit: int, over: int) -> float:
    """0 up to ``limit - over`` tokens, then falling in a line to -1 at the limit; -1 if cut there (DAPO eq. 13)."""
    if truncated:
        return -1.0
    return min(0.0, (limit - over - num_tokens) / over)


def _penalised(score: Score, completion: Completion, config: PipelineConfig) -> Score:
    limit, over = config.grpo.max_new_tokens, config.grpo.overlong.penalty_tokens
    penalty = overlong_penalty(len(completion.token_ids), completion.truncated, limit, over)
    return dataclasses.replace(score, total=score.total + penalty, parts={**score.parts, "overlong": penalty})
