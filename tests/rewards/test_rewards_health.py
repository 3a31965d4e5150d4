"""Reward health: golds, tricks, constants, and the stop before training."""

from __future__ import annotations

import pytest

from data_contracts.check import ContractError
from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import QUESTIONS, turn
from tasks.rewards.health import (
    blind_tricks,
    gold_findings,
    gold_scores_full,
    gold_tricks,
    health_report,
    require_healthy,
)
from tasks.rewards.reward import REWARDS
from tasks.rewards.score import rubric_of_sample, score


def continuous(question: dict, rewards: RewardsConfig) -> bool:
    names = [n for n in rubric_of_sample(question, rewards) if REWARDS[n].judges == "answer"]
    return any(REWARDS[name].continuous for name in names)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q['problem_type']}-{q['question_id']}")
def test_every_gold_scores_full_marks(question: dict, rewards: RewardsConfig) -> None:
    assert gold_scores_full(question, rewards) is None


@pytest.mark.parametrize(
    "question",
    [q for q in QUESTIONS if not continuous(q, RewardsConfig())],
    ids=lambda q: f"{q['problem_type']}-{q['question_id']}",
)
def test_no_trick_earns_anything_on_discrete_rewards(question: dict, rewards: RewardsConfig) -> None:
    for name, completion in {**blind_tricks(question), **gold_tricks(question)}.items():
        assert score(question, completion, rewards).accuracy == 0.0, name


def test_every_rubric_is_exercised(rewards: RewardsConfig) -> None:
    assert {q["problem_type"] for q in QUESTIONS} == set(rewards.rubrics) - {"dialogue"}


def test_the_report_is_healthy_and_states_constants(rewards: RewardsConfig) -> None:
    report = {d.domain: d for d in health_report(QUESTIONS, rewards)}
    assert [d.domain for d in report.values() if d.findings] == []
    assert not report["choice"].continuous
    assert set(report["choice"].tricks.values()) == {0.0}
    assert report["caption"].judge == "lexical"
    require_healthy(list(report.values()), rewards)


def test_constants_of_continuous_domains(rewards: RewardsConfig) -> None:
    spans = [
        {"question": "When?", "problem_type": "temporal_grounding", "answer": f"{s} to {s + 10}", "duration": 100}
        for s in (0, 20, 40, 60, 80)
    ]
    tracks = [{"question": "Where?", "problem_type": "tracking", "answer": str([[0, 0, 0.5, 0.5]] * 8)}] * 2
    boxes = [{"question": "Where?", "problem_type": "grounding", "answer": "<|box_start|>(0,0),(500,500)<|box_end|>"}]
    report = {d.domain: d for d in health_report([*spans, *tracks, *boxes], rewards)}
    whole = report["temporal_grounding"].constants["whole span"]
    assert whole == pytest.approx(0.1)
    assert report["temporal_grounding"].best_constant >= whole
    assert report["tracking"].constants["whole frame"] == pytest.approx(0.25)
    assert report["grounding"].constants["whole frame"] == pytest.approx(0.25)
    scores = [{"question": "?", "problem_type": "mos", "answer": f"{v:.2f}"} for v in (1, 2, 2, 3)]
    assert health_report(scores, rewards)[0].constants["mean"] == pytest.approx(0.5)


def test_a_weak_reward_fails_its_domain_and_stops_the_pipeline() -> None:
    """ROUGE on golds that the question nearly states pays for copying the question."""
    golds = [f"the dog number {i} runs to the red door" for i in range(30)]
    echoes = [{"question": g, "problem_type": "free-form", "domain": "echo", "answer": g} for g in golds]
    config = RewardsConfig()
    report = health_report([*echoes, *QUESTIONS], config)
    failing = [d for d in report if d.findings]
    assert [d.domain for d in failing] == ["echo"]
    assert "copy of the question" in failing[0].findings[0]
    with pytest.raises(ContractError, match="echo"):
        require_healthy(report, config)
    require_healthy(report, RewardsConfig(allow_unhealthy=("echo",)))


def test_golds_that_fail_are_named(rewards: RewardsConfig) -> None:
    bad = {"question_id": "q-bad", "question": "?", "problem_type": "choice", "options": ["a", "b"], "answer": "D"}
    short = {"question_id": "q-short", "problem_type": "description", "question": "?", "answer": "It is bad."}
    findings = dict(gold_findings([bad, *QUESTIONS, short], rewards))
    assert set(findings) == {"q-bad", "q-short"}
    assert "answer" in findings["q-bad"]
    report = {d.domain: d for d in health_report([bad], rewards)}
    assert report["choice"].num_gold_failures == 1
    with pytest.raises(ContractError, match="q-bad"):
        require_healthy(list(report.values()), rewards)


def test_golds_are_found_in_samples_and_dialogues(rewards: RewardsConfig) -> None:
    bad = {"question_id": "q-bad", "question": "?", "problem_type": "mos", "options": [], "answer": "fine"}
    assert [key for key, _ in gold_findings([{"sample_id": "s", "questions": [QUESTIONS[0], bad]}], rewards)] == [
        "q-bad"
    ]
    dialogue = {"dialogue_id": "d", "pairs": [QUESTIONS[0], bad]}
    assert [key for key, _ in gold_findings([dialogue], rewards)] == ["d"]
    merged = {"dialogue_id": "d", "pairs": [QUESTIONS[0], QUESTIONS[1]]}
    assert gold_findings([merged], rewards) == []
    assert [d.domain for d in health_report([merged], rewards)] == ["choice", "mos"]


def test_a_gold_stands_alone_in_its_field(rewards: RewardsConfig) -> None:
    for question in QUESTIONS:
        wrapped = turn(f"I am sure that {question['answer']} it is, or something else.")
        if not continuous(question, rewards):
            assert score(question, wrapped, rewards).accuracy == 0.0
