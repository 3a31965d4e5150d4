"""Mining in a child process: k rollouts of training prompts by the SFT student, and which prompts they make hard.

    python -m tasks.mine.rollout JOB.json

inputs: ``dialogues``, ``student``. Writes the DIFFICULTY table to ``job.out``, whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import DIFFICULTY
from pipeline_config.schema import ConfigError, PipelineConfig
from tasks.launcher.job import Job, child_main, progress
from tasks.mine.select import Mined, select, summary

if TYPE_CHECKING:
    from tasks.student.checkpoint import Student

Row = Mapping[str, Any]


def run(job: Job) -> dict[str, Any]:
    """Roll out, score, select, write. Returns the sizes of the pools and the mean pass rate.

    Raises ConfigError: no training dialogue of the wanted sub-tasks.
    """
    from tasks.student.checkpoint import load_student

    config = job.config
    chosen = choose_prompts(pq.read_table(job.inputs["dialogues"]).to_pylist(), config, job.seed)
    student = load_student(job.inputs["student"], config.student)
    rows = select(
        roll_out(student, chosen, config, job.seed),
        right_above=config.mine.right_above,
        easy_pool=config.mine.easy_pool,
        random_control=config.mine.random_control,
        seed=job.seed,
    )
    beside = job.out.with_name(f"{job.out.name}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=DIFFICULTY), beside)
    beside.replace(job.out)
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


def roll_out(student: Student, dialogues: Sequence[Row], config: PipelineConfig, seed: int) -> list[Mined]:
    """``mine.num_rollouts`` scored completions of each dialogue."""
    from tasks.rewards.score import score
    from tasks.student.encode import Prompt
    from tasks.student.generate import generate

    completions = generate(
        student,
        [Prompt(text=row["prompt"], media_path=row["media_path"]) for row in dialogues],
        num_rollouts=config.mine.num_rollouts,
        temperature=config.mine.temperature,
        top_p=config.mine.top_p,
        max_new_tokens=config.mine.max_new_tokens,
        max_think_tokens=config.mine.max_think_tokens,
        batch_size=config.mine.batch_size,
        seed=seed,
        on_progress=progress,
    )
    return [
        Mined(
            dialogue_id=row["dialogue_id"],
            sub_task=row["sub_task"],
            rewards=[score(row, c.text, config.rewards, truncated=c.truncated).accuracy for c in group],
            completions=[c.text for c in group],
        )
        for row, group in zip(dialogues, completions, strict=True)
    ]


if __name__ == "__main__":
    child_main(run)
