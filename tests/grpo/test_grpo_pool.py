"""What GRPO trains on and what it is probed with."""

from __future__ import annotations

from typing import Any

import pytest

from data_contracts.check import ContractError
from pipeline_config.schema import ConfigError, GrpoConfig
from tasks.grpo.pool import probe_set, step_size, training_pool

MINED = [
    {"dialogue_id": i, "pool": pool}
    for i, pool in [
        ("a", "hard"), ("b", "hard"), ("c", "easy"), ("d", "dropped"), ("e", "dropped"), ("f", "dropped"),
        ("b", "random"), ("e", "random"),
    ]
]  # fmt: skip


def config(**keys: Any) -> GrpoConfig:
    return GrpoConfig.model_validate({"optimiser": {"lr": 1e-5}, "prompts_per_step": 2, **keys})


def test_hard_trains_on_hard_and_the_easy_kept_beside() -> None:
    assert training_pool(MINED, config(), 0) == (["a", "b", "c"], 0)


def test_random_trains_on_the_control() -> None:
    assert training_pool(MINED, config(pool="random"), 0) == (["b", "e"], 0)


def test_a_pool_smaller_than_a_step_is_filled_up_and_says_so() -> None:
    ids, num_filled_up = training_pool(MINED, config(prompts_per_step=5), 0)
    assert ids[:3] == ["a", "b", "c"]
    assert num_filled_up == 2
    assert len(set(ids)) == 5
    assert training_pool(MINED, config(prompts_per_step=50), 0) == (ids + sorted(set("def") - set(ids)), 3)


def test_random_without_a_control_names_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"mine\.random_control"):
        training_pool([{"dialogue_id": "a", "pool": "hard"}], config(pool="random"), 0)


def test_nothing_mined() -> None:
    with pytest.raises(ContractError, match=r"mine\.prompts"):
        training_pool([], config(), 0)


def test_the_probe_is_fixed_and_of_the_mined_training_dialogues() -> None:
    rows = [
        {"dialogue_id": f"{split}-{sub_task}-{i}", "split": split, "sub_task": sub_task}
        for split in ("train", "test")
        for sub_task in ("mcq", "assess")
        for i in range(20)
    ]
    probed = probe_set(rows, ("mcq",), 8, 5)
    assert len(probed) == 8
    assert all(row["split"] == "train" and row["sub_task"] == "mcq" for row in probed)
    assert probe_set(list(reversed(rows)), ("mcq",), 8, 5) == probed
    assert probe_set(rows, ("mcq",), 8, 6) != probed
    assert len(probe_set(rows, ("mcq",), 500, 5)) == 20


@pytest.mark.parametrize(
    ("pool_size", "world_size", "expected"),
    [(20, 4, 8), (8, 4, 8), (7, 4, 4), (7, 1, 7), (5, 2, 4), (3, 4, 3)],
    ids=["as configured", "just enough", "shared by four", "alone", "shared by two", "cannot be shared"],
)
def test_a_step_of_a_small_pool_is_what_the_devices_can_share(pool_size: int, world_size: int, expected: int) -> None:
    assert step_size(pool_size, 8, world_size) == expected
