"""Rewards of free text: ROUGE, word error rate."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tasks.rewards.reward import Item, Outcome, Unread, reward

MAX_WORDS = 2048


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: seconds

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(gold: str, answer: str | None) -> float | Unread:
    """Mean F of ROUGE-1, -2 and -L with Porter's stemmer, in [0, 1]; 1 for equal texts.

    ROUGE-2 is left out of the mean where the gold has a single word: it has no pair of words and would be 0 for itself.
    """
    if answer is None:
        return Unread("no answer")
    words = answer.split(maxsplit=MAX_WORDS)
    if len(words) > MAX_WORDS:
        return Unread(f"more than {MAX_WORDS} words")
    if " ".join(gold.split()) == " ".join(words):
        return 1.0
    scores = _scorer().score(gold, answer)
    names = ["rouge1", "rougeL"] if len(gold.split()) < 2 else ["rouge1", "rouge2", "rougeL"]
    return sum(float(scores[name].fmeasure) for name in names) / len(names)


@reward(
    "rouge",
    judges="answer",
    continuous=True,
    source="Video-R1 sec. 3 (free-form)",
    formula="mean F of ROUGE-1, ROUGE-2 and ROUGE-L, stemmed",
    example=({"problem_type": "free-form", "answer": "The dog runs home"}, "<think></think><answer>the dog runs home</answer>", 1.0),
)
def rouge_reward(item: Item) -> Outcome:
    """Open answers by the words they share with the gold."""
    return rouge(item.gold, item.answer)
