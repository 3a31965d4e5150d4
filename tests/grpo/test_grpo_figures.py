"""Figures of a step's rollouts."""

from __future__ import annotations

import numpy as np

from tasks.grpo.figures import rollout_figures
from tasks.rewards.score import Score
from tasks.student.generate import Completion


def scored(accuracy: float, **parts: float | None) -> Score:
    return Score(accuracy, {"accuracy": accuracy, **parts}, "read", accuracy, (accuracy,), ("A",))


def test_a_part_counts_over_the_rollouts_whose_rubric_has_it() -> None:
    """A step may hold prompts of several kinds, each scored by the rewards of its own rubric."""
    choices = [scored(1.0, format=1.0), scored(0.0, format=0.0)]
    regions = [scored(0.5, format=1.0, region_phrase=0.5), scored(0.0, format=1.0, region_phrase=None)]
    completions = [[Completion(text="", token_ids=[1, 2], truncated=False)] * 2] * 2
    rewards = np.array([[1.0, 0.0], [0.5, 0.0]])
    figures = rollout_figures(completions, [choices, regions], rewards, np.array([False, False]), 0.99)
    assert figures["part_format"] == (3.0, 4.0)
    assert figures["part_region_phrase"] == (0.5, 1.0)
    assert figures["accuracy"] == (1.5, 4.0)
