"""A question of every problem type, with its gold: to try rubrics on, and for the tests.

python -m tasks.rewards --examples | python -m tasks.rewards
"""

from __future__ import annotations

from typing import Any


def turn(answer: str, think: str = "") -> str:
    """A completion with this answer."""
    return f"<think>{think}</think><answer>{answer}</answer>"


def box_text(phrase: str, box: tuple[int, int, int, int]) -> str:
    """A labelled box as ViDA-UGC writes it."""
    x1, y1, x2, y2 = box
    return f"<|object_ref_start|>{phrase}<|object_ref_end|><|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


NOISE = box_text("Moderate noise", (0, 0, 500, 500))
CLARITY = box_text("Severe low clarity", (0, 0, 1000, 1000))
TRACK = str([[0.1 * i, 0.1, 0.1 * i + 0.3, 0.5] for i in range(7)] + [[0.0, 0.0, 0.2, 0.2]])
SUFFIX = "\nAnswer with a single option's letter (A, B, C, ...) from the given choices directly."

QUESTIONS: list[dict[str, Any]] = [
    {
        "question": "Which distortion affects the image most?\nA. Noise\nB. Low clarity\nC. Motion blur" + SUFFIX,
        "problem_type": "choice",
        "options": ["Noise", "Low clarity", "Motion blur"],
        "answer": "B",
    },
    {"question": "Please rate the quality from 1 to 5.", "problem_type": "mos", "answer": "3.42"},
    {"question": "Please provide all boxes.", "problem_type": "detection", "answer": f"{NOISE}, {CLARITY}"},
    {"question": "Please provide all boxes.", "problem_type": "detection", "answer": "No distortion."},
    {
        "question": "Where is moderate noise?",
        "problem_type": "grounding",
        "answer": "<|box_start|>(10,20),(300,400)<|box_end|>",
    },
    {
        "question": "What distortion affects this region <|box_start|>(0,0),(500,500)<|box_end|>?",
        "problem_type": "region",
        "answer": "Moderate noise",
    },
    {
        "question": "What distortion affects this region <|box_start|>(0,0),(9,9)<|box_end|>?",
        "problem_type": "region",
        "answer": "No distortion affects this region.",
    },
    {
        "question": "Please evaluate the image quality in detail and provide your reasons.",
        "problem_type": "description",
        "answer": f"A bright picture of 168 x 168 pixels.\nDistortions: {NOISE}, {CLARITY}\n"
        f"Overall: two distortions; key distortions: {CLARITY}\nThus, the quality of the image is bad.",
    },
    {
        "question": "Please evaluate the image quality in detail and provide your reasons.",
        "problem_type": "description",
        "answer": "A dark picture.\nDistortions: No distortion.\nOverall: clean; key distortions: No distortion.\n"
        "Thus, the quality of the image is excellent.",
    },
    {
        "question": "Please describe the image quality briefly.",
        "problem_type": "brief",
        "answer": "The quality of the image is poor; its key distortion is severe low clarity.",
    },
    {
        "question": "Please describe the image quality briefly.",
        "problem_type": "brief",
        "answer": "The quality of the image is excellent; it has no distortion.",
    },
    {
        "question": "Please describe the blocking artifacts in the image.",
        "problem_type": "distortion",
        "answer": "Moderate blocking artifacts affects the top left of the image "
        "<|box_start|>(0,0),(400,400)<|box_end|>.",
    },
    {"question": "What is the most significant distortion?", "problem_type": "free_form", "answer": "Moderate noise"},
    {"question": "What is the most significant distortion?", "problem_type": "free_form", "answer": "No distortion"},
    {"question": "When does the man sit down?", "problem_type": "temporal_grounding", "answer": "12.54 to 17.83"},
    {"question": "Where is the dog?", "problem_type": "tracking", "answer": TRACK},
    {"question": "How good is the clip?", "problem_type": "video_quality", "answer": "Good"},
    {
        "question": "Why did the boy run?",
        "problem_type": "grounded_qa",
        "options": ["(A) to hide", "(B) to play", "(C) to eat"],
        "answer": "(C)",
        "glue": [[1.0, 4.5], [7.0, 9.0]],
    },
    {
        "question": "Describe the clip.",
        "problem_type": "caption",
        "answer": "A brown dog runs to the door. A woman opens the door.",
        "events": ["A dog runs to the door.", "A woman opens the door."],
    },
    {
        "question": "Describe the clip.",
        "problem_type": "structured_caption",
        "answer": "A brown dog runs to the door.",
        "events": ["A dog runs to the door."],
        "subjects": [{"name": "brown dog", "attributes": ["brown", "wet"], "actions": ["runs to the door"]}],
    },
    {"question": "Which one?", "problem_type": "multiple choice", "options": ["a cat", "a dog"], "answer": "A"},
    {"question": "How many?", "problem_type": "numerical", "answer": "1,234"},
    {"question": "Read the sign.", "problem_type": "OCR", "answer": "Mind the gap"},
    {"question": "What happens?", "problem_type": "free-form", "answer": "The dog chases a ball"},
    {"question": "How long is the room, in metres?", "problem_type": "regression", "answer": "4.2"},
    {"question": "What is 3/4?", "problem_type": "mathematics", "answer": "0.75"},
    {"question": "How fast does it fall?", "problem_type": "physics", "answer": "9.81 m/s^2"},
    {"question": "When was the peak?", "problem_type": "chart", "answer": "2021"},
    {"question": "Who opens the door?", "problem_type": "judged", "answer": "a woman"},
]
for _number, _question in enumerate(QUESTIONS):
    _question["question_id"] = f"q{_number}"
