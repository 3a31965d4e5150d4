"""Every student answers the same held-out dialogues, in a child process.

    python -m tasks.evaluate.answer JOB.json        (under torchrun where there is more than one device)

inputs: ``dialogues``, ``sft``, ``grpo`` and, where there is one, ``champion``. Writes the EVALUATION table to
``job.out``. One student is loaded at a time and answers greedily. Dialogues are shared by the processes and answers
written in parts under ``job.folder/parts`` as they end, so that a child that was killed goes on with those it lacks.

Two rows are blind (ours): ``constant`` gives, per question kind, the answer that scores best on the training set, and
``swapped`` is the SFT student shown pictures of other photographs. What a score owes to seeing is what exceeds them.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from data_contracts.records import EVALUATION
from tasks.evaluate.items import choose, evaluation_rows, half_asked, swap_pictures
from tasks.launcher.job import Job, child_main, is_rank_zero, progress
from tasks.launcher.parts import Parts, write_rows
from tasks.student.turns import assistant_turn, merge_answers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sitting:
    """A student about to answer: its name in the table, its checkpoint, and the picture it sees of each media_path."""

    name: str
    model: str
    pictures: Mapping[str, str]


def run(job: Job) -> dict[str, Any]:
    """Answer, score, write. Returns the number of dialogues, questions, photographs, pictures of `half_asked` and
    students.

    Raises ConfigError: nothing is held out, or only one photograph is, or ``evaluate.prompts`` is less than one picture
    needs, or no training question is there to fit the best constants on.
    """
    dialogues = pq.read_table(job.inputs["dialogues"]).to_pylist()
    chosen = choose(dialogues, job.config.evaluate.prompts, job.seed)
    blind = constant_rows(dialogues, chosen, job)
    sittings = _sittings(job, chosen)
    parts = {
        sitting.name: Parts(job.folder / "parts" / sitting.name, EVALUATION, "dialogue_id") for sitting in sittings
    }
    for place, sitting in enumerate(sittings):
        _answer(job, sitting, chosen, parts[sitting.name], place, len(sittings))
    if not is_rank_zero():
        return {}
    asked = [row["dialogue_id"] for row in chosen]
    base, *others = (parts[sitting.name].whole(asked).to_pylist() for sitting in sittings)
    students = [base, blind, *others]
    write_rows(job.out, [row for rows in students for row in rows], EVALUATION)
    return {
        "num_dialogues": len(chosen),
        "num_questions": sum(len(row["pairs"]) for row in chosen),
        "num_photographs": len({row["source_photograph"] for row in chosen}),
        "num_half_asked": len(half_asked(chosen)),
        "num_students": len(students),
    }


def constant_rows(dialogues: Sequence[Row], chosen: Sequence[Row], job: Job) -> list[dict[str, Any]]:
    """What the best constants of the training questions score on the chosen dialogues."""
    from pipeline_config.schema import ConfigError
    from tasks.rewards.metrics import best_constant
    from tasks.rewards.score import score

    train = [q for row in dialogues if row["split"] == "train" for q in row["pairs"]]
    constants = best_constant(train, job.config.rewards)
    rows = []
    for row in chosen:
        answers = []
        for question in row["pairs"]:
            constant = constants.get((question["sub_task"], question["kind"]))
            if constant is None:
                raise ConfigError(
                    f"evaluate: held-out questions of {question['sub_task']} / {question['kind']} have none like them "
                    "in the training split; ingest more training pictures or fewer kinds of questions"
                )
            answers.append(constant.answer_to(question))
        turn = assistant_turn("", merge_answers(answers))
        scored = score(row, turn, job.config.rewards)
        rows += evaluation_rows("constant", row, turn, scored.pair_answers, scored.pair_accuracy)
    return rows


def _sittings(job: Job, chosen: Sequence[Row]) -> list[Sitting]:
    paths = sorted({row["media_path"] for row in chosen})
    own = {path: path for path in paths}
    swapped = swap_pictures(chosen, {path: _size(path) for path in paths}, job.seed)
    sittings = [
        Sitting("base", job.config.student.model, own),
        Sitting("swapped", job.inputs["sft"], swapped),
        Sitting("sft", job.inputs["sft"], own),
        Sitting("grpo", job.inputs["grpo"], own),
    ]
    return sittings + ([Sitting("champion", job.inputs["champion"], own)] if "champion" in job.inputs else [])


def _answer(job: Job, sitting: Sitting, chosen: Sequence[Row], parts: Parts, place: int, num_sittings: int) -> None:
    """Add one student's rows about each dialogue that this process has to ask.

    place: how many students have answered before, for the progress of all.
    """
    row_of = {row["dialogue_id"]: row for row in chosen}
    own = [row_of[dialogue_id] for dialogue_id in parts.own(list(row_of))]
    if not own:
        return
    from tasks.rewards.score import score
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt
    from tasks.student.generate import completed

    settings = job.config.evaluate
    groups = completed(
        load_student(sitting.model, job.config.student),
        [Prompt(text=row["prompt"], media_path=sitting.pictures[row["media_path"]]) for row in own],
        temperature=0.0,
        max_new_tokens=settings.max_new_tokens,
        max_think_tokens=settings.max_think_tokens,
        batch_size=settings.batch_size,
        seed=job.seed,
    )
    for done, (number, (completion,)) in enumerate(groups, 1):
        row = own[number]
        scored = score(row, completion.text, job.config.rewards, truncated=completion.truncated)
        parts.add(evaluation_rows(sitting.name, row, completion.text, scored.pair_answers, scored.pair_accuracy))
        progress(place * len(own) + done, num_sittings * len(own), student=place + 1)
    parts.close()
    gc.collect()  # the student, before the next is loaded


def _size(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


if __name__ == "__main__":
    child_main(run)
