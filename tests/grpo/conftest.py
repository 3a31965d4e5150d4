"""GRPO jobs on the random student, and rewards that it earns now and then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import PipelineConfig
from tasks.launcher.job import Job


def letters(item: Any) -> float:
    """A reward that random weights already earn a little of: the share of letters in the completion."""
    text = item.turn.text
    return sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text))


def rare(item: Any) -> float:
    """A reward that random weights seldom earn: 1 for a completion of more letters than three in four."""
    return float(letters(item) > 0.75)


@pytest.fixture
def letters_reward() -> Iterator[None]:
    """While a test runs, ``letters`` and ``rare`` are in the table of rewards, under their names."""
    from tasks.rewards.reward import REWARDS, reward

    reward("letters", judges="form", source="test", departs="", formula="letters / characters")(letters)
    reward("rare", judges="form", source="test", departs="", formula="letters > 3/4 of characters")(rare)
    yield
    del REWARDS["letters"], REWARDS["rare"]


@pytest.fixture
def make_job(make_job_in: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    """make_job(name, ...): a GRPO job in a folder of its own under ``tmp_path``, otherwise as `make_job_in`."""
    return functools.partial(make_job_in, tmp_path)


@pytest.fixture(scope="session")
def make_job_in(student_folder: Path, tables: dict[str, Path]) -> Callable[..., Job]:
    """A GRPO job in ``parent/name``; config_student and the rest: keys of those sections."""

    def make(
        parent: Path,
        name: str = "job",
        rubric: str = "letters",
        config_student: dict[str, Any] | None = None,
        **grpo: Any,
    ) -> Job:
        lr = grpo.pop("lr", 3e-2)
        defaults = {
            "steps": 3,
            "prompts_per_step": 2,
            "num_rollouts": 4,
            "max_new_tokens": 8,
            "batch_size": 1,
            "probe_prompts": 0,
            "save_steps": 100,
            "optimiser": {"lr": lr, "scheduler": "constant"},
        }
        config = PipelineConfig.model_validate(
            {
                "name": "test",
                "ingest": {"sources": [{"kind": "degrade", "name": "unused"}]},
                "sft": {"optimiser": {"lr": 1e-3}},
                "rewards": {"rubrics": {"choice": {rubric: 1.0}}},
                "student": {"precision": "float32", **(config_student or {})},
                "grpo": {**defaults, **grpo},
            }
        )
        folder = parent / name
        folder.mkdir(exist_ok=True)
        inputs = {key: str(path) for key, path in {**tables, "student": student_folder}.items()}
        return Job(config, inputs, folder / "out", folder, 7, {"stage_run": "run/grpo"})

    return make
