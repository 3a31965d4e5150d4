"""Which held-out dialogues are asked, and which picture stands in when a student is to answer blind.

Pure. The paper scores ViDA-UGC's fixed test set; choosing part of a held-out set and the swapped pictures are ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from pipeline_config.schema import ConfigError


def choose(dialogues: Sequence[Mapping[str, Any]], limit: int, seed: int) -> list[Mapping[str, Any]]:
    """At most `limit` held-out dialogues: all those about as many pictures, spread evenly over source photographs.

    dialogues: rows of the dialogues table; those of the training split are left out. A picture is asked everything or
    nothing, because in the official score a picture that was not asked for a description, say, is one that got none.
    The result is ordered by sub-task, because answers of like length generate together fastest; it is the order in
    which the answers' boxes count in the score. Same seed, same choice. Raises ConfigError if nothing is held out or
    `limit` is less than one picture needs.
    """
    pictures: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(dialogues, key=lambda row: row["dialogue_id"]):
        if row["split"] == "test":
            pictures[row["sample_id"]].append(row)
    if not pictures:
        raise ConfigError(
            "evaluate: no dialogue is held out (split 'test'); raise ingest.test_share or declare a source's split"
        )
    rng = np.random.default_rng(seed)
    of_photograph: dict[str, list[str]] = defaultdict(list)
    for sample in rng.permutation(sorted(pictures)).tolist():
        of_photograph[pictures[sample][0]["source_photograph"]].append(sample)
    photographs = rng.permutation(sorted(of_photograph)).tolist()
    rounds = zip_longest(*(of_photograph[photograph] for photograph in photographs))

    chosen: list[Mapping[str, Any]] = []
    for sample in (sample for turn in rounds for sample in turn if sample is not None):
        if len(chosen) + len(pictures[sample]) > limit:
            break
        chosen += pictures[sample]
    if not chosen:
        raise ConfigError(
            f"evaluate.prompts: {limit} are not enough: the first picture alone has {len(pictures[sample])}; raise it"
        )
    return sorted(chosen, key=lambda row: (row["sub_task"], row["dialogue_id"]))


def half_asked(dialogues: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pictures (sample ids) with boxes in their golds that are not asked both for their distortions' boxes and for a
    description, where the dialogues ask for both at all. The official score takes the question that is not there for
    one without an answer.
    """
    asked: dict[str, set[str]] = defaultdict(set)
    for row in dialogues:
        asked[row["sample_id"]] |= {pair["problem_type"] for pair in row["pairs"]}
    whole = {"detection", "description"} & set().union(*asked.values())
    return [sample for sample, types in asked.items() if types & {*whole, "region"} and whole - types]


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
            "evaluate: the held-out pictures come from one source photograph; at least two are needed to swap "
            "pictures; hold out more, or raise evaluate.prompts"
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
