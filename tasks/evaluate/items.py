"""Which held-out dialogues are asked, and which picture stands in when a student is to answer blind.

Pure. The paper scores ViDA-UGC's fixed test set; choosing part of a held-out set and the swapped pictures are ours.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from pipeline_config.schema import ConfigError


def choose(dialogues: Sequence[Mapping[str, Any]], limit: int, seed: int) -> list[Mapping[str, Any]]:
    """At most `limit` held-out dialogues, spread evenly over source photographs and, within them, over sub-tasks.

    dialogues: rows of the dialogues table; those of the training split are left out. A photograph's first picture is
    asked everything before its second is asked anything, so that one picture can be read as a whole in the report. The
    result is ordered by sub-task, because answers of like length generate together fastest. Same seed, same choice.
    Raises ConfigError if nothing is held out.
    """
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(dialogues, key=lambda row: row["dialogue_id"]):
        if row["split"] == "test":
            cells[row["source_photograph"], row["sub_task"]].append(row)
    if not cells:
        raise ConfigError(
            "evaluate: no dialogue is held out (split 'test'); raise ingest.test_share or declare a source's split"
        )
    rng = np.random.default_rng(seed)
    photographs = rng.permutation(sorted({photograph for photograph, _ in cells})).tolist()
    sub_tasks = rng.permutation(sorted({sub_task for _, sub_task in cells})).tolist()
    pictures = sorted({row["sample_id"] for rows in cells.values() for row in rows})
    turn = dict(zip(pictures, rng.permutation(len(pictures)).tolist(), strict=True))
    queues = {cell: deque(sorted(rows, key=lambda row: turn[row["sample_id"]])) for cell, rows in cells.items()}

    chosen: list[Mapping[str, Any]] = []
    total = min(limit, sum(map(len, cells.values())))
    for shift in cycle(range(len(sub_tasks))):  # each shift pairs every photograph with one sub-task
        for place, photograph in enumerate(photographs):
            queue = queues.get((photograph, sub_tasks[(place + shift) % len(sub_tasks)]))
            if queue:
                chosen.append(queue.popleft())
                if len(chosen) == total:
                    return sorted(chosen, key=lambda row: (row["sub_task"], row["dialogue_id"]))
    raise AssertionError("cycle ends by return")


def swap_pictures(
    dialogues: Sequence[Mapping[str, Any]], sizes: Mapping[str, tuple[int, int]], seed: int
) -> dict[str, str]:
    """media_path -> media_path of a picture of ANOTHER photograph: what a student sees when it answers blind.

    sizes: media_path -> (width, height) in pixels. A derangement of the photographs, drawn among those that have a
    picture of the same size; a size that only one photograph has takes pictures of any other photograph. Raises
    ConfigError if there is only one photograph.
    """
    photograph_of = {row["media_path"]: row["source_photograph"] for row in dialogues}
    by_size: dict[tuple[int, int], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    anywhere: dict[str, list[str]] = defaultdict(list)
    for path in sorted(photograph_of):
        by_size[sizes[path]][photograph_of[path]].append(path)
        anywhere[photograph_of[path]].append(path)
    if len(anywhere) < 2:
        raise ConfigError(
            "evaluate: the held-out pictures come from one source photograph; at least two are needed to swap pictures"
        )
    rng = np.random.default_rng(seed)
    swapped: dict[str, str] = {}
    for _, group in sorted(by_size.items()):
        donors = group if len(group) > 1 else anywhere
        order = rng.permutation(sorted(donors)).tolist()
        next_of = dict(zip(order, order[1:] + order[:1], strict=True))
        for photograph, paths in sorted(group.items()):
            gifts = donors[next_of[photograph]]
            swapped.update({path: gifts[place % len(gifts)] for place, path in enumerate(paths)})
    return swapped


def evaluation_rows(
    student: str,
    dialogue: Mapping[str, Any],
    completion: str,
    answers: Sequence[str | None],
    accuracies: Sequence[float],
) -> list[dict[str, Any]]:
    """A scored dialogue as rows of the evaluation table, one per question.

    answers, accuracies: as `tasks.rewards.score.score` read and scored them, in the order of the dialogue's pairs.
    """
    return [
        {
            "student": student,
            **{k: dialogue[k] for k in ("dialogue_id", "sample_id", "media_path", "source_photograph")},
            **{k: pair[k] for k in ("question_id", "sub_task", "kind", "problem_type", "question", "options")},
            "gold": pair["answer"],
            "completion": completion,
            "answer": answer,
            "accuracy": accuracy,
        }
        for pair, answer, accuracy in zip(dialogue["pairs"], answers, accuracies, strict=True)
    ]
