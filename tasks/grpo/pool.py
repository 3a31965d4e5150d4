"""Which dialogues GRPO trains on and which it is probed with: pure, from rows of ``dialogues`` and ``difficulty``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_contracts.check import ContractError
from pipeline_config.schema import ConfigError, GrpoConfig

Row = Mapping[str, Any]


def training_pool(difficulty: Sequence[Row], config: GrpoConfig, seed: int) -> tuple[list[str], int]:
    """(dialogue ids of the configured pool, how many of them only fill it up).

    "hard" trains on the hard prompts and the easy ones kept beside them; "random" on the equal-size control. A pool
    smaller than one step is filled up with other mined prompts, seeded, so that a step keeps its size.
    Raises ConfigError: pool "random" of a mining run that marked none. ContractError: nothing was mined.
    """
    if not difficulty:
        raise ContractError("difficulty: holds no mined prompt; raise mine.prompts or check mine.sub_tasks")
    wanted = {"hard", "easy"} if config.pool == "hard" else {"random"}
    ids = [row["dialogue_id"] for row in difficulty if row["pool"] in wanted]
    if config.pool == "random" and not ids:
        raise ConfigError("grpo.pool: random, but no mined prompt is marked so; set mine.random_control to true")
    others = sorted({row["dialogue_id"] for row in difficulty} - set(ids))
    missing = max(0, min(config.prompts_per_step - len(ids), len(others)))
    order = np.random.default_rng(seed).permutation(len(others))[:missing]
    return sorted(ids) + [others[i] for i in order], missing


def step_size(pool_size: int, prompts_per_step: int, world_size: int) -> int:
    """Prompts of a step: as configured; of a smaller pool as many as the devices can share evenly, if they can."""
    if pool_size >= prompts_per_step:
        return prompts_per_step
    return pool_size // world_size * world_size or pool_size


def probe_set(dialogues: Sequence[Row], sub_tasks: Sequence[str], num_prompts: int, seed: int) -> list[Row]:
    """A fixed set of training dialogues of the mined sub-tasks; fewer if there are not as many."""
    candidates = sorted(
        (row for row in dialogues if row["split"] == "train" and row["sub_task"] in sub_tasks),
        key=lambda row: str(row["dialogue_id"]),
    )
    order = np.random.default_rng(seed).permutation(len(candidates))[:num_prompts]
    return [candidates[i] for i in order]
