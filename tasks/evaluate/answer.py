"""Every student answers the same held-out dialogues, in a child process.

    python -m tasks.evaluate.answer JOB.json

inputs: ``dialogues``, ``sft``, ``grpo`` and, where there is one, ``champion``. Writes the EVALUATION table to
``job.out``. One student is loaded at a time and answers greedily; the finished rows of each stand in ``job.folder``, so
that a retry begins with the student that was cut off.

Two rows are blind (ours): ``constant`` gives, per question kind, the answer that scores best on the training set, and
``swapped`` is the SFT student shown pictures of other photographs. What a score owes to seeing is what exceeds them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.records import EVALUATION
from tasks.evaluate.items import choose, evaluation_rows, swap_pictures
from tasks.launcher.job import Job, child_main, progress
from tasks.student.turns import assistant_turn, merge_answers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sitting:
    """A student about to answer: its name in the table, its checkpoint, and the picture it sees of each media_path."""

    name: str
    model: str
    pictures: Mapping[str, str]


def run(job: Job) -> dict[str, Any]:
    """Answer, score, write. Returns the number of dialogues, questions, photographs and students.

    Raises ConfigError: nothing is held out, or only one photograph is, or no training question is there to fit the
    best constants on.
    """
    dialogues = pq.read_table(job.inputs["dialogues"]).to_pylist()
    chosen = choose(dialogues, job.config.evaluate.prompts, job.seed)
    blind = constant_rows(dialogues, chosen, job)
    parts: dict[str, list[dict[str, Any]]] = {}
    sittings = _sittings(job, chosen)
    for place, sitting in enumerate(sittings):
        part = job.folder / f"{sitting.name}.parquet"
        if not part.exists():
            _write(_answer(job, sitting, chosen, place, len(sittings)), part)
        parts[sitting.name] = pq.read_table(part).to_pylist()
        parts.setdefault("constant", blind)  # in tables it follows the base
    _write([row for rows in parts.values() for row in rows], job.out)
    return {
        "num_dialogues": len(chosen),
        "num_questions": sum(len(row["pairs"]) for row in chosen),
        "num_photographs": len({row["source_photograph"] for row in chosen}),
        "num_students": len(parts),
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


def _answer(job: Job, sitting: Sitting, chosen: Sequence[Row], place: int, num_sittings: int) -> list[dict[str, Any]]:
    """One student's rows. place: how many students have answered before, for the progress of all."""
    from tasks.rewards.score import score
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt
    from tasks.student.generate import generate

    settings = job.config.evaluate
    student = load_student(sitting.model, job.config.student)
    completions = generate(
        student,
        [Prompt(text=row["prompt"], media_path=sitting.pictures[row["media_path"]]) for row in chosen],
        temperature=0.0,
        max_new_tokens=settings.max_new_tokens,
        max_think_tokens=settings.max_think_tokens,
        batch_size=settings.batch_size,
        seed=job.seed,
        on_progress=_progress_of(place, num_sittings),
    )
    del student
    gc.collect()
    rows = []
    for row, (completion,) in zip(chosen, completions, strict=True):
        scored = score(row, completion.text, job.config.rewards, truncated=completion.truncated)
        rows += evaluation_rows(sitting.name, row, completion.text, scored.pair_answers, scored.pair_accuracy)
    return rows


def _progress_of(place: int, num_sittings: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        progress(place * total + done, num_sittings * total, student=place + 1)

    return report


def _size(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def _write(rows: Sequence[Row], path: Path) -> None:
    beside = path.with_name(f"{path.name}.part")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=EVALUATION), beside)
    beside.replace(path)


if __name__ == "__main__":
    child_main(run)
