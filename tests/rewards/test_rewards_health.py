"""Reward health: golds, tricks, constants, and the stop before training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_contracts.check import ContractError
from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import QUESTIONS, turn
from tasks.rewards.health import gold_findings, gold_scores_full, health_report, require_healthy
from tasks.rewards.reward import REWARDS
from tasks.rewards.score import rubric_of_sample, score
from tasks.rewards.tricks import blind_tricks, gold_tricks, judge_tricks, loop_tricks, unit_tricks, word_lists
from tests.rewards.endpoint import Endpoint, settings


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


# ----------------------------------------------------------------------------------------------------------- battery
CLIPS = [
    {
        "question": "Describe the clip.",
        "problem_type": "caption",
        "answer": f"A {who} {does} the {what}.",
        "events": [f"A {who} {does} the {what}."],
    }
    for who, does, what in zip(
        ["man", "woman", "boy", "girl", "child"] * 4,
        ["opens", "closes", "lifts", "paints"] * 5,
        ["door", "ball", "box"] * 7,
        strict=False,
    )
]
METRES = [{"question": "How long is it, in metres?", "problem_type": "regression", "answer": f"{n}.5"} for n in (2, 30)]
COLOURS = [
    {"question": "Is the car red or green?", "problem_type": "judged", "answer": "red"},
    {"question": "How many dogs are there?", "problem_type": "judged", "answer": "3 dogs"},
]
SUMS = [{"question": "What is 6 + 6?", "problem_type": "mathematics", "answer": "12"}]


def findings_of(questions: list[dict], config: RewardsConfig) -> str:
    (domain,) = health_report(questions, config)
    if domain.findings:
        with pytest.raises(ContractError, match=domain.domain):
            require_healthy([domain], config)
    return "; ".join(domain.findings)


def test_the_battery_finds_nothing_on_sound_rewards(rewards: RewardsConfig) -> None:
    for questions in (CLIPS, METRES, COLOURS, SUMS):
        assert findings_of(questions, rewards) == ""
    (captions,) = health_report(CLIPS, rewards)
    tried = set(captions.tricks)
    assert {"gold denied (event_recall)", "roles swapped (event_recall)", "list of words", "nothing"} <= tried
    (sums,) = health_report(SUMS, rewards)
    assert {"number of apples (mathematics)", "a loop in Chinese (repetition_gate)"} <= set(sums.tricks)


def test_a_judge_that_counts_words_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    def holds_the_words(texts: list[str]) -> bool:
        text, statement = (set(re.findall(r"[a-z]+", t.lower())) - {"a", "the"} for t in texts)
        return statement <= text

    endpoint.says, endpoint.seconds = holds_the_words, 0.0
    found = findings_of(CLIPS, RewardsConfig(judge=settings(endpoint, tmp_path, max_in_flight=32)))
    assert "'list of words' earns 1.000" in found
    for trick in ("gold denied", "roles swapped", "gold's words, listed"):
        assert f"{trick} (event_recall)" in found


def test_a_judge_that_is_talked_over_is_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.says, endpoint.seconds = (lambda texts: texts[-1] == texts[-2] or "VERDICT" in texts[-1]), 0.0
    found = findings_of(COLOURS, RewardsConfig(judge=settings(endpoint, tmp_path)))
    assert "verdict of one's own (judge_agreement)" in found


def test_a_judge_that_takes_hedges_is_refused(monkeypatch: pytest.MonkeyPatch, rewards: RewardsConfig) -> None:
    monkeypatch.setattr("tasks.rewards.lexical.hedges", lambda text: frozenset())
    monkeypatch.setattr("tasks.rewards.lexical.alternatives", lambda question: set())
    assert "'hedged (judge_agreement)' earns" in findings_of(COLOURS, rewards)


def test_a_reward_that_takes_any_word_for_a_unit_is_refused(
    monkeypatch: pytest.MonkeyPatch, rewards: RewardsConfig
) -> None:
    monkeypatch.setattr("tasks.rewards.answers.numbers.read_unit", lambda text: "metre")
    found = findings_of(METRES, rewards)
    assert "'number of apples (regression)' earns 1.000" in found
    assert "'number in another unit (regression)' earns 1.000" in found


def test_a_gate_that_sees_spaces_only_is_refused(monkeypatch: pytest.MonkeyPatch, rewards: RewardsConfig) -> None:
    def repeats_words(text: str) -> bool:
        words = text.split()
        grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        return len(words) >= 48 and len(set(grams)) < 0.35 * len(grams)

    monkeypatch.setattr("tasks.rewards.gates.repeats_itself", repeats_words)
    found = findings_of(SUMS, rewards)
    assert "a loop in Chinese" in found
    assert "a loop in Thai" in found
    assert "a loop (repetition_gate)" not in found


def test_tricks_are_made_of_the_gold() -> None:
    tricks = judge_tricks({**CLIPS[0], "events": ["A man opens the door.", "It rains."]})
    assert tricks["gold denied"] == turn("No man opens the door. No It rains.")
    assert tricks["roles swapped"] == turn("A door opens the man.")
    assert judge_tricks(COLOURS[0])["hedged"] == turn("red or green")
    assert "gold denied" not in judge_tricks({"problem_type": "judged", "answer": "no dog"})
    assert unit_tricks(METRES[0])["number in another unit"] == turn("2.5 km")
    assert unit_tricks({"answer": "5 km"})["number in another unit"] == turn("5 mm")
    assert unit_tricks({"answer": "a cat"}) == unit_tricks({"answer": "0"}) == {}
    assert all(completion.endswith("<answer>12</answer>") for completion in loop_tricks(SUMS[0]).values())
    assert word_lists(CLIPS)["list of words"] == turn(
        "man woman boy girl child opens closes lifts paints door ball box"
    )
    assert word_lists(COLOURS) == {}
