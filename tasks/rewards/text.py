"""Rewards of text: equal, ROUGE, word error rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from tasks.rewards.answers.choice import clean_text
from tasks.rewards.reward import Item, Outcome, SampleError, Unread, reward

MAX_WORDS = 1024
_TOKEN = re.compile(r"[a-z0-9]+")  # what rouge_score counts as a word


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: seconds

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(gold: str, answer: str | None) -> float | Unread:
    """Mean F of ROUGE-1, -2 and -L with Porter's stemmer, in [0, 1]; 1 for equal texts.

    ROUGE-2 is left out of the mean where the gold has a single word: it has no pair of words and would be 0 for itself.
    Words are runs of a-z and 0-9, as the scorer cuts them. More than MAX_WORDS are unreadable in an answer and a
    SampleError in a gold: the longest common subsequence costs the product of the two numbers.
    """
    num_gold = _num_tokens(gold)
    if num_gold > MAX_WORDS:
        raise SampleError(f"field 'answer': a text of more than {MAX_WORDS} words cannot be scored by ROUGE")
    if not answer or _num_tokens(answer) > MAX_WORDS:
        return Unread(f"no answer of at most {MAX_WORDS} words")
    if gold.split() == answer.split():
        return 1.0
    scores = _scorer().score(gold, answer)
    names = ["rouge1", "rougeL"] if num_gold < 2 else ["rouge1", "rouge2", "rougeL"]
    return sum(float(scores[name].fmeasure) for name in names) / len(names)


def _num_tokens(text: str) -> int:
    """Words as ROUGE counts them, up to one more than MAX_WORDS."""
    return sum(1 for _ in islice(_TOKEN.finditer(text.lower()), MAX_WORDS + 1))


def _words(text: str | None) -> list[str] | None:
    words = (text or "").split(maxsplit=MAX_WORDS)
    return words if 0 < len(words) <= MAX_WORDS else None


@reward(
    "rouge",
    judges="answer",
    continuous=True,
    source="Video-R1 sec. 3 (free-form)",
    departs="equal texts score 1 (in the released code a text without a-z and 0-9 scores 0 against itself), a gold of "
    "one word leaves ROUGE-2 out (it would be 0), and more than 1024 words are unread, because the cost is "
    "the product of both lengths",
    formula="mean F of ROUGE-1, ROUGE-2 and ROUGE-L, stemmed",
    example=(
        {"problem_type": "free-form", "answer": "The dog runs"},
        "<think></think><answer>the dogs run</answer>",
        1.0,
    ),
)
def rouge_reward(item: Item) -> Outcome:
    """Open answers by the words they share with the gold."""
    return rouge(item.gold, item.answer)


def num_word_edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions of words that turn a into b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


@reward(
    "ocr",
    judges="answer",
    continuous=True,
    source="Video-R1 sec. 3 (OCR)",
    departs="more than 1024 words are unread, because the cost is the product of both lengths; else no",
    formula="clip(1 - word edits / words of the gold, 0, 1)",
    example=(
        {"problem_type": "OCR", "answer": "mind the gap please"},
        "<think></think><answer>mind the gap</answer>",
        0.75,
    ),
)
def ocr(item: Item) -> Outcome:
    """One minus the word error rate; case and punctuation count."""
    gold, found = _words(item.gold), _words(item.answer)
    if gold is None:
        raise SampleError(f"field 'answer': a transcript of more than {MAX_WORDS} words cannot be scored")
    if found is None:
        return Unread(f"no answer of at most {MAX_WORDS} words")
    if len(found) >= 2 * len(gold):  # at least as many insertions as the gold has words
        return 0.0
    return max(0.0, 1 - num_word_edits(gold, found) / len(gold))


@reward(
    "exact_text",
    judges="answer",
    source="VideoChat-R1 sec. 3 (R_acc of video quality)",
    departs="the released training script has no reward for video quality; equal texts are the paper's accuracy",
    formula="1 if the texts are equal, case, white space and a closing full stop aside; else 0",
    example=({"problem_type": "video_quality", "answer": "Good"}, "<think></think><answer>good.</answer>", 1.0),
)
def exact_text(item: Item) -> Outcome:
    """Answers from a closed vocabulary without letters."""
    return Unread("no answer") if item.answer is None else float(clean_text(item.answer) == clean_text(item.gold))
