"""Captions: event recall, coverage, structured thinking."""

from __future__ import annotations

import json

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.answers.subjects import read_subjects, subjects_of
from tasks.rewards.caption import coverage_score, matched_subjects, thinking_score
from tasks.rewards.examples import turn
from tasks.rewards.score import score

EVENTS = ["A dog runs to the door.", "A woman opens the door.", "The dog barks.", "The woman leaves the house."]
CAPTION = {"problem_type": "caption", "question": "Describe.", "answer": " ".join(EVENTS), "events": EVENTS}
DOG = {"name": "brown dog", "attributes": ["brown", "wet fur"], "actions": ["runs", "barks"]}
WOMAN = {"name": "woman", "attributes": ["red coat"], "actions": ["opens the door"]}


def test_r_cap_is_format_plus_recall_by_the_judge(rewards: RewardsConfig) -> None:
    scored = score(CAPTION, turn("The dog runs to the door and barks. A woman opened the door."), rewards)
    assert scored.parts["event_recall"] == 0.75
    assert scored.total == 1.75
    assert "judge: lexical" in scored.reason


@pytest.mark.parametrize(
    ("recall", "value"), [(0.0, 0.0), (0.27, 0.0), (0.28, 0.5), (0.34, 0.5), (0.35, 1.0), (1.0, 1.0)]
)
def test_coverage_has_three_steps(recall: float, value: float) -> None:
    assert coverage_score(recall) == value


def test_structured_thinking_adds_two_scores(rewards: RewardsConfig) -> None:
    sample = {**CAPTION, "problem_type": "structured_caption", "subjects": [DOG, WOMAN]}
    think = json.dumps({"subjects": [DOG, WOMAN]})
    scored = score(sample, turn("A dog runs to the door.", think), rewards)
    assert scored.parts == {"think_score": 1.0, "event_coverage": 0.0, "format": 1.0, "accuracy": 0.5}
    prose = score(sample, turn("A dog runs to the door. The dog barks.", "A dog and a woman."), rewards)
    assert prose.parts["think_score"] == 0.0
    assert prose.parts["event_coverage"] == 1.0
    assert "no JSON of subjects" in prose.reason


def test_thinking_is_f1_of_attributes_and_actions_over_matched_subjects() -> None:
    gold = subjects_of([DOG, WOMAN])
    found = subjects_of([{"name": "The Brown Dog", "attributes": ["Brown", "big"], "actions": ["runs"]}])
    assert gold is not None
    assert found is not None
    # attributes: 1 right of 2 found and 3 gold; actions: 1 right of 1 found and 3 gold
    assert thinking_score(gold, found) == pytest.approx((2 / 5 + 2 / 4) / 2)


def test_repeats_and_invented_subjects_gain_nothing() -> None:
    gold = subjects_of([DOG])
    twice = subjects_of([DOG, DOG])
    listed = subjects_of([{**DOG, "actions": ["runs", "runs", "barks", "sleeps", "eats"]}])
    assert gold is not None
    assert twice is not None
    assert listed is not None
    assert thinking_score(gold, gold) == 1.0
    assert thinking_score(gold, twice) == pytest.approx(2 / 3)
    assert thinking_score(gold, listed) == pytest.approx((1 + 2 * 2 / 6) / 2)
    assert thinking_score(gold, []) == 0.0


def test_subjects_are_assigned_optimally() -> None:
    gold = subjects_of([{"name": "brown dog"}, {"name": "dog"}])
    found = subjects_of([{"name": "dog"}, {"name": "big brown dog"}])
    assert gold is not None
    assert found is not None
    pairs = {(tuple(sorted(g.name)), tuple(sorted(f.name))) for g, f in matched_subjects(gold, found)}
    assert pairs == {(("dog",), ("dog",)), (("brown", "dog"), ("big", "brown", "dog"))}
    assert matched_subjects(gold, subjects_of([{"name": "cat"}]) or []) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prose",
        "[]",
        '{"subjects": {}}',
        '{"subjects": [{"name": 3}]}',
        '{"subjects": [{"name": "x", "actions": "runs"}]}',
    ],
)
def test_other_layouts_cannot_be_read(text: str) -> None:
    assert read_subjects(text) is None
