"""The seconds a stage is expected to take follow its work, its settings and the device's speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_config.schema import ModelShape, load_config
from tasks.student.duration import Sizes, combined, expected_seconds, in_words, sizes_of, vision_tokens

SHAPE = ModelShape(
    parameters=8_000_000,
    vision_parameters=2_000_000,
    hidden=256,
    layers=4,
    vocabulary=4000,
    kv_width=64,
    vision_width=128,
)
SIZES = Sizes(num_train=2000, num_test=1000, num_pictures=400, seen=3000, vision=36, prompt=46, response=54)
SPEED = 1e11


def seconds(sizes: Sizes = SIZES, speed: float = SPEED, **overrides: Any) -> dict[str, float]:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    return dict(expected_seconds(load_config("demo", named), SHAPE, sizes, speed))


def test_sft_is_six_operations_a_weight_and_token_at_a_fifth_of_the_speed() -> None:
    """And one look of the frozen tower at each picture, at three tenths of it."""
    language = 6 * (6_000_000 - 4000 * 256) * 3000 * (36 + 46 + 54) * 3.5 / SPEED / 0.2
    vision = 2 * 2_000_000 * 400 * 36 * 4 / SPEED / 0.3
    assert seconds()["sft"] == pytest.approx(language + vision)


WEIGHTS = 6_000_000 - 4000 * 256  # of the language model, in products


def sampling(num_prompts: int, num_rollouts: int, num_tokens: float, batch_size: int) -> float:
    """Tower and prompt once a prompt, then a token of every row a step, each layer of which takes a millisecond."""
    tower = 2 * 2_000_000 * num_prompts * 36 * 4 / SPEED / 0.3
    prefill = 2 * WEIGHTS * num_prompts * (36 + 46) / SPEED / 0.3
    decode = 2 * WEIGHTS * num_prompts * num_rollouts * num_tokens / SPEED / 0.1
    return tower + prefill + decode + -(-num_prompts * num_rollouts // batch_size) * num_tokens * 4 * 0.001


def test_mining_is_rollouts_of_an_answers_length() -> None:
    assert seconds()["mine"] == pytest.approx(sampling(128, 8, 54, 128))
    assert seconds(mine__max_new_tokens=20)["mine"] == pytest.approx(sampling(128, 8, 20, 128))


def test_grpo_is_rollouts_training_on_whole_groups_and_two_probes() -> None:
    training = 6 * WEIGHTS * 4 * (36 + 46 + 8 * 54) / SPEED / 0.2
    probes = 2 * sampling(64, 4, 54, 128)
    assert seconds()["grpo"] == pytest.approx(50 * (sampling(4, 8, 54, 128) + training) + probes)


def test_evaluation_is_one_student_that_rambles_and_three_that_do_not() -> None:
    assert seconds()["evaluate"] == pytest.approx(sampling(500, 1, 160, 64) + 3 * sampling(500, 1, 54, 64))


@pytest.mark.parametrize("stage", ["sft", "mine", "grpo", "evaluate"])
def test_twice_the_speed_is_at_most_half_the_time(stage: str) -> None:
    slow, fast = seconds()[stage], seconds(speed=2 * SPEED)[stage]
    assert slow / 2 <= fast < slow


@pytest.mark.parametrize(
    ("stage", "setting", "factor"),
    [
        ("sft", {"sft__epochs": 7.0}, 2),
        ("mine", {"mine__prompts": 256}, 2),
        ("grpo", {"grpo__steps": 100, "grpo__probe_prompts": 0}, 2),
        ("evaluate", {"evaluate__prompts": 1000}, 2),
    ],
)
def test_twice_the_work_takes_twice_as_long(stage: str, setting: dict[str, Any], factor: int) -> None:
    once = seconds(grpo__probe_prompts=0) if stage == "grpo" else seconds()
    assert seconds(**setting)[stage] == pytest.approx(factor * once[stage], rel=0.1)


def test_what_costs_more_is_expected_to_take_longer() -> None:
    plain = seconds()["sft"]
    assert seconds(student__gradient_checkpointing=True)["sft"] > 1.2 * plain
    assert seconds(student__lora={"r": 4})["sft"] < 0.8 * plain
    assert seconds(sft__freeze={"vision": False})["sft"] > 1.2 * plain
    for stage in ("sft", "mine", "evaluate"):
        assert seconds(student__devices=2)[stage] == pytest.approx(seconds()[stage] / 2)
    assert seconds(grpo__max_rollouts=160)["grpo"] < 0.5 * seconds()["grpo"]


def test_a_picture_counts_as_the_processor_resizes_it() -> None:
    bounds = load_config("demo", {"student.min_pixels": 56 * 56, "student.max_pixels": 280 * 280})
    assert vision_tokens(168, 168, bounds) == 36
    assert vision_tokens(28, 28, bounds) == 4
    assert vision_tokens(4000, 3000, bounds) == 100


def test_sizes_of_a_published_table(tables: dict[str, Path]) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(tables["dialogues"]).to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    config = load_config("demo", {"sft.repeats": {train[0]["sub_task"]: 3}})
    sizes = sizes_of(tables["dialogues"], config)
    assert (sizes.num_train, sizes.num_test) == (len(train), len(rows) - len(train))
    assert sizes.num_pictures == len({row["media_path"] for row in train})
    assert sizes.seen == sum(3 if row["sub_task"] == train[0]["sub_task"] else 1 for row in train)
    assert sizes.prompt == pytest.approx(sum(len(row["prompt"]) for row in train) / len(train) / 4)
    assert sizes.response == pytest.approx(sum(len(row["response"]) for row in train) / len(train) / 4)
    assert sizes.vision > 0


def test_a_picture_that_is_gone_is_left_out_of_the_estimate(tables: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(tables["dialogues"])
    gone = [str(tmp_path / "gone.png"), *table["media_path"].to_pylist()[1:]]
    place = table.schema.get_field_index("media_path")
    pq.write_table(table.set_column(place, "media_path", pa.array(gone)), tmp_path / "dialogues.parquet")
    assert sizes_of(tmp_path / "dialogues.parquet", load_config("demo")).vision > 0


def test_sources_add_up() -> None:
    other = Sizes(num_train=0, num_test=1000, num_pictures=0, seen=0, vision=72, prompt=46, response=54)
    both = combined([SIZES, other])
    assert (both.num_train, both.num_test, both.seen) == (2000, 2000, 3000)
    assert both.vision == pytest.approx((36 * 3 + 72) / 4)


def test_the_dry_run_expects_about_what_the_tables_say() -> None:
    """The demo's data stages give 2,077 training and 960 held-out dialogues of 36 vision tokens about 416 pictures."""
    from flows.plan import make_plan

    plan = make_plan(load_config("demo", {"student.precision": "float32"}))
    (sizes,) = plan.sizes
    assert sizes.num_train == pytest.approx(2077, rel=0.15)
    assert sizes.num_test == pytest.approx(960, rel=0.15)
    assert sizes.seen == pytest.approx(2909, rel=0.15)
    assert (sizes.num_pictures, sizes.vision) == (416, 36)
    assert sizes.prompt == pytest.approx(46, rel=0.5)
    assert set(plan.seconds) == {"sft", "mine", "grpo", "evaluate"}


def test_in_words() -> None:
    assert [in_words(value) for value in (45, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]
