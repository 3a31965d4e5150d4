"""What an OpenAI-compatible teacher is asked: one template, and per problem type the form its answer must take.

The teacher gets the question in the words the student will read and must answer in the student's form, so that its
answer can be verified against the gold it never sees. A changed template is a changed request: it is asked anew. The
wordings of questions and answers are ViDA-UGC's; the instruction around them is ours.
"""

from __future__ import annotations

from data_contracts.records import DISTORTIONS, LEVELS, SEVERITIES
from tasks.annotate.teacher import Row

_BOX = "<|box_start|>(x1,y1),(x2,y2)<|box_end|>"
_LABELLED = f"<|object_ref_start|>Moderate noise<|object_ref_end|>{_BOX}"
_PHRASE = 'a severity and a distortion, for instance "Moderate noise"'

ANSWER_FORMS: dict[str, str] = {
    "choice": "the capital letter of one option and nothing else",
    "mos": "the quality score from 1 (bad) to 5 (excellent) with two decimals and nothing else",
    "detection": f"every distortion with its box as {_LABELLED}, joined by a comma and a space; or: No distortion.",
    "grounding": f"one box as {_BOX} and nothing else",
    "region": f"{_PHRASE}; or: No distortion affects this region.",
    "description": (
        "four lines: 1. one sentence on what the picture shows; "
        f"2. 'Distortions: ' and every distortion with its box as {_LABELLED}, joined by a comma and a space, "
        "or: No distortion.; 3. 'Overall: ' and a remark ending in 'key distortions: ' and the box texts of the most "
        "significant distortions; 4. 'Thus, the quality of the image is <level>.'"
    ),
    "brief": (
        "'The quality of the image is <level>; its key distortion is <severity and distortion in lower case>.' "
        "or 'The quality of the image is <level>; it has no distortion.'"
    ),
    "distortion": f"'<Severity> <distortion in lower case> affects the <position> of the image {_BOX}.'",
    "free_form": f"{_PHRASE}; or: No distortion",
}

_TEMPLATE = """Judge the technical quality of the picture: how it was taken, stored and processed, not what it shows.
The distortions are: {distortions}. Severities: {severities}. Levels: {levels}.
Boxes are integers from 0 to 1000 of the picture's width and height, top left corner first.
First reason in at most two short sentences from what can be seen in the picture, then answer, in exactly this form:
<think>your reasoning</think><answer>your answer</answer>
Your answer is {form}.

Question: {question}"""


def prompt_for(question: Row) -> str:
    """The text of the user turn for a question. Raises KeyError on a problem type without an answer form."""
    return _TEMPLATE.format(
        distortions=", ".join(DISTORTIONS),
        severities=", ".join(SEVERITIES),
        levels=", ".join(LEVELS),
        form=ANSWER_FORMS[question["problem_type"]],
        question=question["question"],
    )
