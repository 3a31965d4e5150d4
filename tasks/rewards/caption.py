"""Rewards of captions: events a judge finds in them, structured thinking, agreement with a reference."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.rewards.answers.subjects import Subject, read_subjects, subjects_of
from tasks.rewards.judge import judge_of
from tasks.rewards.reward import Item, Noted, Outcome, SampleError, Unread, read_gold, reward

SAME_SUBJECT = 0.5  # token Jaccard of two names, ours
COVERAGE = (0.28, 0.35)  # VideoCap-R1: below the first 0, below the second .5, else 1
_EVENTS = ["A dog runs to the door.", "A woman opens the door."]


def events_of(item: Item) -> list[str]:
    """The reference's events: field ``events``, a list of sentences."""
    events = item.sample.get("events")
    texts = [] if events is None else [str(event) for event in events if str(event).strip()]
    if not texts:
        raise SampleError("field 'events': captions need the list of the reference's events, one sentence each")
    return texts


def _recall(item: Item) -> tuple[float, str]:
    judge = judge_of(item.settings.judge)
    events = events_of(item)
    verdicts = judge.entails(item.answer or "", events)
    missed = [event for event, verdict in zip(events, verdicts, strict=True) if not verdict.yes]
    note = f"judge: {judge.by}" + (
        f"; {len(missed)} of {len(events)} events missed, as {missed[0]!r}" if missed else ""
    )
    return 1 - len(missed) / len(events), note


@reward(
    "event_recall",
    judges="answer",
    continuous=True,
    hacks=("judge",),
    source="VideoChat-R1 sec. 3 (R_recall)",
    departs="the released training script has no reward for captions; the formula is the paper's. Its judge is "
    "Qwen2.5-72B, here the config's",
    formula="events of the reference that the caption entails / events of the reference, as the judge says",
    example=(
        {"problem_type": "caption", "answer": " ".join(_EVENTS), "events": _EVENTS},
        "<think></think><answer>A brown dog is running to the door.</answer>",
        0.5,
    ),
)
def event_recall(item: Item) -> Outcome:
    """How much of what happens is told."""
    if item.answer is None:
        events_of(item)
        return Unread("no caption")
    return Noted(*_recall(item))


@reward(
    "event_coverage",
    judges="answer",
    continuous=True,
    hacks=("judge",),
    source="VideoCap-R1 sec. 3 (Escore); the three-way reading of the thresholds is ours",
    departs="no code is released; the formula is the paper's",
    formula="s = event recall: 0 if s < .28, .5 if s < .35, else 1",
    example=(
        {"problem_type": "structured_caption", "answer": " ".join(_EVENTS), "events": _EVENTS},
        "<think></think><answer>A brown dog is running to the door.</answer>",
        1.0,
    ),
)
def event_coverage(item: Item) -> Outcome:
    """Event recall in three steps."""
    if item.answer is None:
        events_of(item)
        return Unread("no caption")
    recall, note = _recall(item)
    return Noted(coverage_score(recall), note)


def coverage_score(recall: float) -> float:
    """0, .5 or 1 of an event recall."""
    return 0.0 if recall < COVERAGE[0] else 0.5 if recall < COVERAGE[1] else 1.0


def f1(num_right: int, num_found: int, num_gold: int) -> float:
    """2 * right / (found + gold); 1 if both are 0."""
    return 2 * num_right / (num_found + num_gold) if num_found + num_gold else 1.0


def matched_subjects(gold: Sequence[Subject], found: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """Pairs of subjects of the same name (token Jaccard >= .5): the assignment with the largest sum."""
    if not gold or not found:
        return []
    from scipy.optimize import linear_sum_assignment  # half a second to import

    overlap = [[len(g.name & f.name) / max(1, len(g.name | f.name)) for f in found] for g in gold]
    admitted = [[o if o >= SAME_SUBJECT else 0.0 for o in row] for row in overlap]
    rows, columns = linear_sum_assignment(admitted, maximize=True)
    return [(gold[i], found[j]) for i, j in zip(rows, columns, strict=True) if admitted[i][j] > 0]


def thinking_score(gold: Sequence[Subject], found: Sequence[Subject]) -> float:
    """(F1 of attributes + F1 of actions) / 2, counted over matched subjects; what unmatched ones claim counts as
    false.
    """
    pairs = matched_subjects(gold, found)
    attributes = f1(
        sum(len(g.attributes & f.attributes) for g, f in pairs),
        sum(len(f.attributes) for f in found),
        sum(len(g.attributes) for g in gold),
    )
    actions = f1(
        sum(len(g.actions & f.actions) for g, f in pairs),
        sum(len(f.actions) for f in found),
        sum(len(g.actions) for g in gold),
    )
    return (attributes + actions) / 2 if found or not gold else 0.0


_DOG = {"name": "brown dog", "attributes": ["brown", "wet"], "actions": ["runs"]}


@reward(
    "think_score",
    judges="answer",
    continuous=True,
    source="VideoCap-R1 sec. 3 (Tscore); JSON layout and matching are ours",
    departs="no code is released; the formula is the paper's, layout and matching are ours",
    formula="(F1 of attributes + F1 of actions) / 2 of the subjects in the think block against the annotated ones",
    example=(
        {"problem_type": "structured_caption", "answer": "A dog runs.", "subjects": [_DOG]},
        '<think>{"subjects": [{"name": "the brown dog", "attributes": ["brown", "wet"], "actions": ["sits"]}]}</think>'
        "<answer>A dog runs.</answer>",
        0.5,
    ),
)
def think_score(item: Item) -> Outcome:
    """Structured thinking first: who, how they look, what they do. No judge is needed. Golds: field ``subjects``."""
    gold = read_gold(subjects_of(item.sample.get("subjects")), "subjects")
    found = read_subjects(item.turn.think)
    if found is None:
        return Unread("the think block is no JSON of subjects")
    value = thinking_score(gold, found)
    return value if value == 1 else Noted(value, f"think_score {value:.3g}: subjects, attributes or actions differ")


@reward(
    "judge_agreement",
    judges="answer",
    hacks=("judge",),
    source="GLM-4.1V-Thinking sec. 5 (model judge where no rule applies)",
    departs="the released verifiers ask a model wherever their rules cannot read a text; here only where the rubric "
    "says so, because one weak judge can collapse every domain",
    formula="1 if the judge finds the answer to say the same as the gold, else 0",
    example=(
        {"problem_type": "judged", "question": "Who opens the door?", "answer": "a woman"},
        "<think></think><answer>The woman.</answer>",
        1.0,
    ),
)
def judge_agreement(item: Item) -> Outcome:
    """The fallback. An answer equal to the gold needs no judge."""
    if item.answer is None:
        return Unread("no answer")
    if item.answer.strip() == item.gold:
        return 1.0
    judge = judge_of(item.settings.judge)
    verdict = judge.agrees(str(item.sample.get("question") or ""), item.gold, item.answer)
    against = "" if verdict.yes else f"; {item.answer[:60]!r} does not say {item.gold[:60]!r}"
    return Noted(float(verdict.yes), f"judge: {judge.by}{against}")
