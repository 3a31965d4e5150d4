"""Rewards of rollouts: what was cut and how long it is reaches them; the penalty near the token limit (DAPO)."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_config.schema import PipelineConfig
from tasks.grpo.scores import overlong_penalty, score_rollouts
from tasks.student.generate import Completion


def test_it_falls_in_a_line_to_minus_one_at_the_limit() -> None:
    penalties = [overlong_penalty(n, False, limit=100, over=20) for n in (1, 80, 85, 90, 100)]
    assert penalties == pytest.approx([0, 0, -0.25, -0.5, -1.0])


def test_a_cut_completion_pays_in_full() -> None:
    assert overlong_penalty(100, True, limit=100, over=20) == -1.0


def completion(num_tokens: int, truncated: bool = False, text: str = "<answer>") -> Completion:
    return Completion(text, [7] * num_tokens, truncated)


def config_of(rubric: dict[str, float], **grpo: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "name": "test",
            "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
            "sft": {"optimiser": {"lr": 1e-3}},
            "rewards": {"truncated": 0.5, "rubrics": {"choice": rubric}},
            "grpo": {"optimiser": {"lr": 1e-3}, **grpo},
        }
    )


SAMPLE = {"problem_type": "choice", "question": "Which?", "options": ["Noise", "Blur"], "answer": "B"}


def test_limit_and_penalty_of_a_length_are_the_configurations() -> None:
    config = config_of({"choice": 1.0}, max_new_tokens=8, overlong={"penalty_tokens": 4})
    ((short, longer, cut),) = score_rollouts([SAMPLE], [[completion(4), completion(7), completion(8, True)]], config)
    assert [score.parts["overlong"] for score in (short, longer, cut)] == [0.0, -0.75, -1.0]
    assert [score.total for score in (short, longer, cut)] == [0.0, -0.75, -0.5]


def test_the_rewards_know_what_was_cut_and_how_long_it_is() -> None:
    rubric = {"choice": 1.0, "length_bonus": 1.0}
    right = "<think>x</think><answer>B</answer>"
    group = [completion(400, text=right), completion(10, text=right), completion(8, True), completion(8)]
    (scores,) = score_rollouts([SAMPLE], [group], config_of(rubric))
    assert [score.total for score in scores] == pytest.approx([1.2, 1.0, 0.5, 0.0])
