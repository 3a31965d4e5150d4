"""The rows of every dataset, as Arrow schemas, and the words they may hold.

Grain of each: ``samples`` one row per media file; ``annotations`` one row per question; ``dialogues`` one row per
training prompt; ``difficulty`` one row per mined prompt and pool; ``rollouts`` one row per GRPO completion;
``evaluation`` one row per (held-out question, student).

Boxes in every dataset are integers 0..1000 of width and height, ``[x1, y1, x2, y2]`` (Qwen2-VL's convention). What a
given student reads and writes is converted at its own boundary (`tasks/student/boxes.py`).
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

# ViDA-UGC's ten distortions, in its order and spelling.
DISTORTIONS = (
    "Low clarity",
    "Noise",
    "Underexposure",
    "Blocking artifacts",
    "Edge aliasing effect",
    "Out of focus blur",
    "Meaningless solid color",
    "Overexposure",
    "Motion blur",
    "Edge ringing effect",
)
SEVERITIES = ("Minor", "Moderate", "Severe")  # "Slight" is read as "Minor"
LEVELS = ("bad", "poor", "fair", "good", "excellent")  # five equal-width levels of MOS over [1, 5]
SPLITS = ("train", "test")
BOX_SCALE = 1000

# What a question asks, and where it belongs in ViDA-UGC.
CATEGORIES = ("perception", "localisation", "description")
SUB_TASKS: dict[str, str] = {
    "mcq": "perception",
    "qa": "perception",
    "score": "perception",
    "dist_detect": "localisation",
    "ref_grounding": "localisation",
    "reg_perception": "localisation",
    "assess": "description",
    "brief_assess": "description",
    "dist_assess": "description",
}
# Kinds of the choice questions (sub-task ``mcq``); other sub-tasks have one kind, their own name.
CHOICE_KINDS = ("type", "severity", "position", "significance")

# How an answer is scored: the key of a rubric in the config's ``rewards`` section.
ProblemType = Literal[
    "choice", "mos", "detection", "grounding", "region", "description", "brief", "distortion", "free_form"
]

_BOX = pa.list_(pa.int64())

DISTORTION = pa.struct(
    [
        ("id", pa.int64()),
        ("distortion", pa.string()),  # one of DISTORTIONS
        ("severity", pa.string()),  # one of SEVERITIES
        ("box", _BOX),  # 0..1000
        ("position", pa.string()),  # "top left" .. "bottom right", "center", "whole picture"
        ("significance", pa.float64()),  # >= 0; the largest marks the key distortion
    ]
)

QUESTION = pa.struct(
    [
        ("question_id", pa.string()),  # digest of (sample_id, sub_task, kind, question, answer)
        ("category", pa.string()),  # one of CATEGORIES
        ("sub_task", pa.string()),  # key of SUB_TASKS
        ("kind", pa.string()),
        ("problem_type", pa.string()),  # a ProblemType
        ("question", pa.string()),  # full wording; for a choice, options and suffix included
        ("options", pa.list_(pa.string())),  # texts without letters; empty unless a choice
        ("answer", pa.string()),  # gold, as the student should write it, boxes 0..1000
        ("source_row", pa.int64()),  # row of source_file's annotation the gold came from, or null
    ]
)

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),  # content id of the media file's bytes
        ("media_type", pa.string()),  # "image"
        ("media_path", pa.string()),  # absolute path
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("perceptual_hash", pa.string()),
        ("source", pa.string()),  # name of the source in the config
        ("source_file", pa.string()),  # the file the user gave: photograph, or annotation file for vida / table
        ("source_row", pa.int64()),  # its row there, null for a photograph
        ("source_photograph", pa.string()),  # unit of the split and of the bootstrap
        ("split", pa.string()),  # one of SPLITS
        ("mos", pa.float64()),  # [1, 5], or null
        ("level", pa.string()),  # one of LEVELS, or null
        ("distortions", pa.list_(DISTORTION)),  # null = not annotated, [] = annotated as having none
        ("questions", pa.list_(QUESTION)),
    ]
)

ANNOTATIONS = pa.schema(
    [
        *QUESTION,
        ("sample_id", pa.string()),
        ("media_path", pa.string()),
        ("source_photograph", pa.string()),
        ("split", pa.string()),
        ("reasoning", pa.string()),  # null: held out, or no try of the teacher agreed with the gold
        ("reward", pa.float64()),  # accuracy reward of the accepted (else best) try, null if not asked
        ("tries", pa.int64()),  # asked of the teacher, 0 if held out
        ("teacher", pa.string()),
        ("request_key", pa.string()),  # journal key of the accepted try
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost", pa.float64()),
    ]
)

PAIR = pa.struct(
    [
        ("question_id", pa.string()),
        ("sub_task", pa.string()),  # key of SUB_TASKS, also where the dialogue says "mixed"
        ("kind", pa.string()),
        ("problem_type", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.string()),
    ]
)

DIALOGUES = pa.schema(
    [
        ("dialogue_id", pa.string()),  # digest of the ids in merged_from, in order
        ("sample_id", pa.string()),
        ("media_path", pa.string()),
        ("source_photograph", pa.string()),
        ("split", pa.string()),
        ("sub_task", pa.string()),  # "mixed" where sub-tasks were merged
        ("prompt", pa.string()),  # user turn: numbered questions (one question stands unnumbered)
        ("response", pa.string()),  # assistant turn: <think>..</think><answer>1. ..\n2. ..</answer>
        ("merged_from", pa.list_(pa.string())),  # question ids, in the order of the numbers
        ("pairs", pa.list_(PAIR)),
        ("num_pairs", pa.int64()),
        ("num_tokens", pa.int64()),  # estimate of prompt + response, without the media
    ]
)

DIFFICULTY = pa.schema(
    [
        ("dialogue_id", pa.string()),
        ("sub_task", pa.string()),
        ("num_rollouts", pa.int64()),  # k
        ("rewards", pa.list_(pa.float64())),  # accuracy reward of each rollout
        ("pass_rate", pa.float64()),  # mean accuracy over the k rollouts
        ("num_all_right", pa.int64()),  # rollouts with every answer right
        ("pool", pa.string()),  # "hard", "easy", "random" or "dropped"
        ("why", pa.string()),
        ("completions", pa.list_(pa.string())),
    ]
)

ROLLOUTS = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("step", pa.int64()),
        ("dialogue_id", pa.string()),
        ("rollout", pa.int64()),  # 0..G-1
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("parts", pa.map_(pa.string(), pa.float64())),  # a part that does not apply is null
        ("advantage", pa.float64()),
        ("trained", pa.bool_()),  # False: its group was dropped, or it has no part in the loss
        ("num_tokens", pa.int64()),
        ("truncated", pa.bool_()),
    ]
)

EVALUATION = pa.schema(
    [
        ("student", pa.string()),  # "base", "sft", "grpo", "constant", "swapped", "champion"
        ("question_id", pa.string()),
        ("dialogue_id", pa.string()),
        ("sample_id", pa.string()),
        ("media_path", pa.string()),
        ("source_photograph", pa.string()),
        ("sub_task", pa.string()),
        ("kind", pa.string()),
        ("problem_type", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("gold", pa.string()),
        ("completion", pa.string()),  # the whole turn
        ("answer", pa.string()),  # what was read as the answer to this question, null if nothing
        ("accuracy", pa.float64()),  # accuracy reward of this answer, in [0, 1]
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "samples": SAMPLES,
    "annotations": ANNOTATIONS,
    "dialogues": DIALOGUES,
    "difficulty": DIFFICULTY,
    "rollouts": ROLLOUTS,
    "evaluation": EVALUATION,
}
ID_COLUMNS: dict[str, list[str]] = {
    "samples": ["sample_id"],
    "annotations": ["question_id"],
    "dialogues": ["dialogue_id"],
    "difficulty": ["dialogue_id", "pool"],
    "rollouts": ["rollout_id"],
    "evaluation": ["student", "question_id"],
}


def level_of(mos: float) -> str:
    """Level of a MOS in [1, 5]: five equal-width levels (ViDA-UGC), bad .. excellent."""
    return LEVELS[min(4, max(0, int((mos - 1.0) / 0.8)))]
