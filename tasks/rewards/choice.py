"""Choice: the right option, as the entire answer field."""

from __future__ import annotations

from tasks.rewards.answers.choice import option_texts, read_choice
from tasks.rewards.reward import Item, Outcome, SampleError, Unread, read_gold, reward


@reward(
    "choice",
    judges="answer",
    source="VideoChat-R1 sec. 3 (R_acc); Video-R1 (multiple choice)",
    departs='VideoChat-R1 takes the first of A-G that stands anywhere in the answer ("Answer: C" is A), Video-R1 '
    "wants the letter alone; here the field must hold one choice in any usual spelling, so that neither prose "
    "nor a list of letters earns anything",
    formula="1 if the chosen option is the gold's, else 0",
    example=(
        {"problem_type": "choice", "options": ["Noise", "Low clarity"], "answer": "B"},
        "<think>Soft edges.</think><answer>(B) Low clarity</answer>",
        1.0,
    ),
)
def choice(item: Item) -> Outcome:
    """Letters are read in any usual spelling, option texts in full; "Answer: C" is C, never the A of "Answer"."""
    try:
        options = option_texts(item.sample.get("options"), str(item.sample.get("question") or ""))
    except ValueError as error:
        raise SampleError(str(error)) from None
    gold = read_gold(read_choice(item.gold, options))
    chosen = read_choice(item.answer, options)
    if chosen is None:
        return Unread("no single option")
    return float(chosen == gold)
