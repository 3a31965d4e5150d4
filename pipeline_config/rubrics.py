"""The rubrics every config starts from: per problem type, named rewards and their weights.

A config's ``rewards.rubrics`` is laid over this table, a rubric at a time. A key is a problem type, or
``domain/problem_type`` for one domain only; ``dialogue`` is the rubric of a merged prompt, whose ``accuracy`` is the mean
over its pairs. The names are those of docs/rewards.md. Total = weighted sum of the parts that apply; a gate that fails
makes the total 0.
"""

from __future__ import annotations

DEFAULT_RUBRICS: dict[str, dict[str, float]] = {
    "dialogue": {"accuracy": 1.0, "format": 1.0},
    # Picture quality (ViDA-UGC, MIPI 2025)
    "choice": {"choice": 1.0, "format": 1.0},
    "mos": {"mos_threshold": 1.0, "format": 1.0},
    "detection": {"detection_f1": 1.0, "format": 1.0},
    "grounding": {"box_iou": 1.0, "format": 1.0},
    "region": {"region_phrase": 1.0, "format": 1.0},
    "description": {"description": 1.0, "format": 1.0},
    "brief": {"brief": 1.0, "format": 1.0},
    "distortion": {"affected_region": 1.0, "format": 1.0},
    "free_form": {"free_form": 1.0, "format": 1.0},
}
