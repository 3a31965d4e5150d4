"""The rubrics every config starts from: per problem type, named rewards and their weights.

A config's ``rewards.rubrics`` is laid over this table, a rubric at a time. A key is a problem type, or
``domain/problem_type`` for one domain only; ``dialogue`` is the rubric of a merged prompt, whose ``accuracy`` is the
mean over its pairs. The names are those of docs/rewards.md. Total = weighted sum of the parts that apply; a gate that
fails makes the total 0.
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
    # VideoChat-R1: plain sums. R_st = R_format + R_IoU (temporal grounding, tracking), R_qa = R_format + R_acc,
    # R_gqa = R_format + R_IoU + R_acc, R_cap = R_format + R_recall
    "temporal_grounding": {"temporal_iou": 1.0, "format": 1.0},
    "tracking": {"tracking_iou": 1.0, "format_tracking": 1.0},
    "video_quality": {"exact_text": 1.0, "format": 1.0},
    "grounded_qa": {"choice": 1.0, "glue_iou": 1.0, "format_glue": 1.0},
    "caption": {"event_recall": 1.0, "format": 1.0},
    # VideoCap-R1
    "structured_caption": {"think_score": 1.0, "event_coverage": 1.0, "format": 1.0},
    # Video-R1, under the names its files use
    "multiple choice": {"choice": 1.0, "format": 1.0},
    "numerical": {"numerical": 1.0, "format": 1.0},
    "OCR": {"ocr": 1.0, "format": 1.0},
    "free-form": {"rouge": 1.0, "format": 1.0},
    "regression": {"regression": 1.0, "format": 1.0},
    # GLM-4.1V-Thinking: boxed answers, tolerances by subject, gates against mixed languages and repetition
    "mathematics": {"mathematics": 1.0, "format_boxed": 1.0, "language_gate": 1.0, "repetition_gate": 1.0},
    "physics": {"physics": 1.0, "format_boxed": 1.0, "language_gate": 1.0, "repetition_gate": 1.0},
    "chart": {"chart": 1.0, "format_boxed": 1.0, "language_gate": 1.0, "repetition_gate": 1.0},
    "judged": {"judge_agreement": 1.0, "format": 1.0},
}

_OURS = "ours, nothing is released"
_QUALITY = "ours; the pair of accuracy and format is that of Q-Insight"
_VIDEOCHAT_R1 = "no, a plain sum"
_VIDEO_R1 = (
    "no, a plain sum; the rubric is chosen by each sample's type, the released code takes the first one's for all"
)
_GLM = "what fails the form or a gate gets the batch's lowest reward in the released code, here a lower sum or 0"

# Where the sum of a rubric's rewards departs from the code its source released; docs/rewards.md prints it.
DEPARTURES: dict[str, str] = {
    "dialogue": "ours; MIPI's second place publishes the number of right answers as the reward, no code",
    **dict.fromkeys(("choice", "mos", "detection", "grounding", "region", "description"), _QUALITY),
    **dict.fromkeys(("brief", "distortion", "free_form"), _QUALITY),
    **dict.fromkeys(("temporal_grounding", "tracking", "grounded_qa"), _VIDEOCHAT_R1),
    **dict.fromkeys(
        ("video_quality", "caption"), "the paper's plain sum; the released training script has neither task"
    ),
    "structured_caption": "the paper's plain sum; no code is released",
    **dict.fromkeys(("multiple choice", "numerical", "OCR", "free-form", "regression"), _VIDEO_R1),
    **dict.fromkeys(("mathematics", "physics", "chart"), _GLM),
    "judged": _OURS,
}
