"""The mean reward on a fixed set of training prompts, the same prompts and seed before and after GRPO."""

from __future__ import annotations

import tasks.student.torchvision_operators  # noqa: F401  before accelerate imports torchvision

# isort: split
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import gather_object

from pipeline_config.schema import PipelineConfig
from tasks.grpo.scores import score_rollouts
from tasks.launcher.job import rank_and_world
from tasks.student.encode import Prompt
from tasks.student.generate import generate

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student


def probe(
    student: Student, dialogues: Sequence[Mapping[str, Any]], config: PipelineConfig, seed: int
) -> dict[str, Any]:
    """Mean reward and accuracy of ``probe_rollouts`` completions per dialogue, sampled as in training.

    Keys: num_prompts, num_rollouts, reward, accuracy (means over all rollouts) and rewards (mean per prompt, in order);
    none but in rank 0. Every process calls it and samples its share of the dialogues.
    """
    rank, world = rank_and_world()
    own = range(rank, len(dialogues), world)
    groups = generate(
        student,
        [Prompt(text=dialogues[i]["prompt"], media_path=dialogues[i]["media_path"]) for i in own],
        num_rollouts=config.grpo.probe_rollouts,
        temperature=config.grpo.temperature,
        top_p=config.grpo.top_p,
        max_new_tokens=config.grpo.max_new_tokens,
        max_think_tokens=config.grpo.max_think_tokens,
        batch_size=config.mine.batch_size,
        seed=seed,
        numbers=own,
    )
    numbered = list(zip(own, groups, strict=True))
    if world > 1:
        numbered = sorted(gather_object(numbered), key=itemgetter(0))
    if rank:
        return {}
    scores = score_rollouts(dialogues, [group for _, group in numbered], config)
    rewards = [float(np.mean([s.total for s in group])) for group in scores]
    return {
        "num_prompts": len(dialogues),
        "num_rollouts": config.grpo.probe_rollouts,
        "reward": float(np.mean(rewards)),
        "accuracy": float(np.mean([s.accuracy for group in scores for s in group])),
        "rewards": rewards,
    }
