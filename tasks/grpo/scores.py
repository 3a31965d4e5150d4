"""Scores of rollouts, through the rewards' entry point for batches, so that rewards of a group apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_config.schema import RewardsConfig
from tasks.rewards.batch import score_batch
from tasks.rewards.score import Score
from tasks.student.generate import Completion


def score_rollouts(
    dialogues: Sequence[Mapping[str, Any]], completions: Sequence[Sequence[Completion]], rewards: RewardsConfig
) -> list[list[Score]]:
    """[prompt][rollout], as the completions."""
    return score_batch(
        dialogues,
        [[c.text for c in group] for group in completions],
        rewards,
        truncated=[[c.truncated for c in group] for group in completions],
        num_tokens=[[len(c.token_ids) for c in group] for group in completions],
    )
