"""The mean reward on a fixed set of training prompts, the same prompts and seed before and after GRPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_config.schema import PipelineConfig
from tasks.grpo.scores import score_rollouts
from tasks.student.encode import Prompt
from tasks.student.generate import generate

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student


def probe(
    student: Student, dialogues: Sequence[Mapping[str, Any]], config: PipelineConfig, seed: int
) -> dict[str, Any]:
    """Mean reward and accuracy of ``probe_rollouts`` completions per dialogue, sampled as in training.

    Keys: num_prompts, num_rollouts, reward, accuracy (means over all rollouts) and rewards (mean per prompt, in order).
    """
    completions = generate(
        student,
        [Prompt(text=row["prompt"], media_path=row["media_path"]) for row in dialogues],
        num_rollouts=config.grpo.probe_rollouts,
        temperature=config.grpo.temperature,
        top_p=config.grpo.top_p,
        max_new_tokens=config.grpo.max_new_tokens,
        max_think_tokens=config.grpo.max_think_tokens,
        batch_size=config.mine.batch_size,
        seed=seed,
    )
    scores = score_rollouts(dialogues, completions, config)
    rewards = [float(np.mean([s.total for s in group])) for group in scores]
    return {
        "num_prompts": len(dialogues),
        "num_rollouts": config.grpo.probe_rollouts,
        "reward": float(np.mean(rewards)),
        "accuracy": float(np.mean([s.accuracy for group in scores for s in group])),
        "rewards": rewards,
    }
