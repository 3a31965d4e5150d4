"""Mining in a child process: k rollouts of training prompts by the SFT student, and which prompts they make hard.

    python -m tasks.mine.rollout JOB.json        (under torchrun where there is more than one device)

inputs: ``dialogues``, ``student``. Prompts are shared by the processes and written in parts under ``job.folder/parts``
as they end, so that a child that was killed goes on with those it lacks. Writes the DIFFICULTY table to ``job.out``,
whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import DIFFICULTY
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.job import Job, child_main, is_rank_zero, progress
from tasks.launcher.parts import Parts, write_rows
from tasks.mine.select import Mined, select, summary

Row = Mapping[str, Any]
MINED = pa.schema([DIFFICULTY.field(name) for name in ("dialogue_id", "sub_task", "rewards", "completions")])


def run(job: Job) -> dict[str, Any]:
    """Roll out, score, select, write. Returns the sizes of the pools and the mean pass rate.

    Raises ConfigError: no training dialogue of the wanted sub-tasks.
    """
    config = job.config
    chosen = choose_prompts(pq.read_table(job.inputs["dialogues"]).to_pylist(), config, job.seed)
    parts = Parts(job.folder / "parts", MINED, "dialogue_id")
    roll_out(job, chosen, parts)
    if not is_rank_zero():
        return {}
    rows = select(
        [Mined(**row) for row in parts.whole([row["dialogue_id"] for row in chosen]).to_pylist()],
        right_above=config.mine.right_above,
        easy_pool=config.mine.easy_pool,
        random_control=config.mine.random_control,
        seed=job.seed,
    )
    write_rows(job.out, rows, DIFFICULTY)
    return summary(rows)


def choose_prompts(dialogues: Sequence[Row], config: PipelineConfig, seed: int) -> list[Row]:
    """``mine.prompts`` training dialogues of ``mine.sub_tasks``, in turns from every source photograph, seeded."""
    wanted = [row for row in dialogues if row["split"] == "train" and row["sub_task"] in config.mine.sub_tasks]
    if not wanted:
        found = sorted({row["sub_task"] for row in dialogues if row["split"] == "train"})
        raise ConfigError(
            f"mine.sub_tasks: {list(config.mine.sub_tasks)} name no training dialogue; dialogues hold {found} "
            '("mixed" where compress.merge_by leaves sub_task out)'
        )
    rng = np.random.default_rng(seed)
    by_photograph: dict[str, list[Row]] = defaultdict(list)
    for i in rng.permutation(len(wanted)):
        by_photograph[wanted[i]["source_photograph"]].append(wanted[i])
    turns = [(turn, order, row) for order, rows in enumerate(by_photograph.values()) for turn, row in enumerate(rows)]
    return [row for _, _, row in sorted(turns, key=lambda t: t[:2])][: config.mine.prompts]


def roll_out(job: Job, chosen: Sequence[Row], parts: Parts) -> None:
    """Add ``mine.num_rollouts`` scored completions of each dialogue that this process has to roll out."""
    number_of = {row["dialogue_id"]: number for number, row in enumerate(chosen)}
    numbers = [number_of[dialogue_id] for dialogue_id in parts.own(list(number_of))]
    if not numbers:
        return
    from tasks.rewards.score import score
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt
    from tasks.student.generate import completed

    config = job.config
    groups = completed(
        load_student(job.inputs["student"], config.student),
        [Prompt(text=chosen[number]["prompt"], media_path=chosen[number]["media_path"]) for number in numbers],
        num_rollouts=config.mine.num_rollouts,
        temperature=config.mine.temperature,
        top_p=config.mine.top_p,
        max_new_tokens=config.mine.max_new_tokens,
        max_think_tokens=config.mine.max_think_tokens,
        batch_size=config.mine.batch_size,
        seed=job.seed,
        numbers=numbers,
    )
    for done, (place, group) in enumerate(groups, 1):
        row = chosen[numbers[place]]
        mined = Mined(
            dialogue_id=row["dialogue_id"],
            sub_task=row["sub_task"],
            rewards=[score(row, c.text, config.rewards, truncated=c.truncated).accuracy for c in group],
            completions=[c.text for c in group],
        )
        parts.add([asdict(mined)])
        progress(done, len(numbers))
    parts.close()


if __name__ == "__main__":
    child_main(run)
