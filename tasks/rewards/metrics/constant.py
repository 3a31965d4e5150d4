"""The best blind answers: what a student earns that has learnt the training set's frequencies and never looks.

constants = best_constant(train_questions, config.rewards)
answer = constants[(row["sub_task"], row["kind"])].answer_to(row)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.rewards.answers.choice import clean_text, option_texts, read_choice
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig

MAX_CANDIDATES = 48  # of the golds that occur, tried as the constant of a kind
MAX_SCORED = 400  # training questions a candidate is scored on


@dataclass(frozen=True)
class Constant:
    """The best constant of one question kind.

    answer: in the gold's format. options: for choices where texts are the stronger constant, option texts from best to
    worst: the first that is offered is chosen; empty where the letter ``answer`` is stronger. accuracy: on train.
    """

    answer: str
    options: tuple[str, ...]
    accuracy: float

    def answer_to(self, question: Mapping[str, Any]) -> str:
        """The constant's answer to a question: a letter for a choice, else ``answer``."""
        offered = [clean_text(text) for text in _options(question)] if self.options else []
        return next((chr(ord("A") + offered.index(text)) for text in self.options if text in offered), self.answer)


def best_constant(train_rows: Iterable[Mapping[str, Any]], rewards: RewardsConfig) -> dict[tuple[str, str], Constant]:
    """Per (sub_task, kind) the constant with the highest mean accuracy on the training questions.

    train_rows: question-like mappings (sub_task, kind, problem_type, question, options, answer). Ties go to the more
    frequent, then to the first. Deterministic.
    """
    by_kind: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in train_rows:
        by_kind[(str(row["sub_task"]), str(row["kind"]))].append(row)
    return {
        key: _best_choice(rows) if _all_are("choice", rows) else _best_answer(rows, rewards)
        for key, rows in by_kind.items()
    }


def _all_are(problem_type: str, rows: Iterable[Mapping[str, Any]]) -> bool:
    """One kind may hold free-form questions too: those whose gold ingest could not read as the kind's own type."""
    return all(row["problem_type"] == problem_type for row in rows)


def _options(row: Mapping[str, Any]) -> list[str]:
    return option_texts(row.get("options"), str(row.get("question") or ""))


def _best_choice(rows: list[Mapping[str, Any]]) -> Constant:
    letters: Counter[int] = Counter()
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for row in rows:
        options = _options(row)
        gold = read_choice(str(row["answer"]), options)
        if gold is None:
            raise SampleError(f"field 'answer': {row['answer']!r} names none of the options {options}")
        letters[gold] += 1
        offered.update(clean_text(text) for text in options)
        right.update([clean_text(options[gold])] if options else [])
    letter, num_right = letters.most_common(1)[0]
    by_letter = Constant(chr(ord("A") + letter), (), num_right / len(rows))
    ranked = tuple(sorted(offered, key=lambda text: (-right[text] / offered[text], -offered[text], text)))
    by_text = Constant(by_letter.answer, ranked, 0.0)
    num_right = sum(
        read_choice(by_text.answer_to(row), _options(row)) == read_choice(str(row["answer"]), _options(row))
        for row in rows
    )
    return (
        Constant(by_letter.answer, ranked, num_right / len(rows))
        if num_right / len(rows) > by_letter.accuracy
        else by_letter
    )


def _best_answer(rows: list[Mapping[str, Any]], rewards: RewardsConfig) -> Constant:
    golds = Counter(str(row["answer"]) for row in rows)
    common = [text for text, _ in golds.most_common(MAX_CANDIDATES)]
    if _all_are("mos", rows):
        ordered = sorted(golds, key=float)
        common = ordered[:: max(1, len(ordered) // MAX_CANDIDATES)]
    step = max(1, len(rows) // MAX_SCORED)
    sampled = rows[::step]
    best = Constant(common[0], (), -1.0)
    for candidate in common:
        completion = f"<think></think><answer>{candidate}</answer>"
        mean = sum(score(row, completion, rewards).accuracy for row in sampled) / len(sampled)
        if mean > best.accuracy:
            best = Constant(candidate, (), mean)
    return best
