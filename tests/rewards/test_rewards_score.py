"""The entry point: rubrics, dialogues, what truncated and unparseable answers are worth, malformed samples."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import QUESTIONS, turn
from tasks.rewards.reward import SampleError
from tasks.rewards.score import score

CHOICE = {"problem_type": "choice", "question": "Which?", "options": ["a", "b", "c"], "answer": "B"}
MOS = {"problem_type": "mos", "question": "How good?", "answer": "3.00"}
DIALOGUE = {"pairs": [CHOICE, {**CHOICE, "answer": "C"}, MOS]}


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    config = RewardsConfig(rubrics={"choice": {"choice": 2.0, "format": 0.5}})
    scored = score(CHOICE, turn("B"), config)
    assert (scored.total, scored.accuracy) == (2.5, 1.0)
    assert scored.parts == {"choice": 1.0, "format": 1.0, "accuracy": 1.0}
    assert score(CHOICE, "B", config).total == 2.0


def test_a_domain_may_have_its_own_rubric() -> None:
    config = RewardsConfig(rubrics={"quiz/choice": {"choice": 3.0}})
    assert score({**CHOICE, "domain": "quiz"}, turn("B"), config).total == 3.0
    assert score({**CHOICE, "domain": "other"}, turn("B"), config).total == 2.0


def test_accuracy_is_the_weighted_mean_of_what_judges_the_answer() -> None:
    rubrics = {"region": {"region_phrase": 1.0, "distortion_q_insight": 3.0, "format": 5.0}}
    sample = {"problem_type": "region", "answer": "Minor noise"}
    assert score(sample, turn("Severe noise"), RewardsConfig(rubrics=rubrics)).accuracy == pytest.approx(0.75 * 0.25)


def test_dialogue_is_the_share_of_right_answers(rewards: RewardsConfig) -> None:
    scored = score(DIALOGUE, turn("1. B\n2. A\n3. 3.20"), rewards)
    assert scored.pair_accuracy == (1.0, 0.0, 1.0)
    assert scored.pair_answers == ("B", "A", "3.20")
    assert scored.accuracy == pytest.approx(2 / 3)
    assert scored.total == pytest.approx(2 / 3 + 1)
    assert scored.parts == {"accuracy": scored.accuracy, "format": 1.0}


def test_answers_are_matched_by_number_not_by_place(rewards: RewardsConfig) -> None:
    assert score(DIALOGUE, turn("3. 3.20\n1. B\n2. C"), rewards).accuracy == 1.0


@pytest.mark.parametrize(
    ("field", "answers"),
    [
        ("1. B", ("B", None, None)),
        ("1. B\n1. A\n2. C", (None, "C", None)),
        ("B\nC\n3.20", (None, None, None)),
        ("B", (None, None, None)),
    ],
)
def test_missing_and_repeated_numbers_are_wrong(
    field: str, answers: tuple[str | None, ...], rewards: RewardsConfig
) -> None:
    scored = score(DIALOGUE, turn(field), rewards)
    assert scored.pair_answers == answers
    assert scored.accuracy == pytest.approx(sum(a is not None for a in answers) / 3)


def test_a_dialogue_of_one_pair_is_its_question(rewards: RewardsConfig) -> None:
    for field in ("B", "1. B", "(B)"):
        scored = score({"pairs": [CHOICE]}, turn(field), rewards)
        assert (scored.total, scored.accuracy, len(scored.pair_accuracy)) == (2.0, 1.0, 1)


def test_all_golds_merged_score_full_marks(rewards: RewardsConfig) -> None:
    pairs = [q for q in QUESTIONS if "glue" not in q and "subjects" not in q]
    field = "\n".join(f"{i}. {q['answer']}" for i, q in enumerate(pairs, start=1))
    assert score({"pairs": pairs}, turn(field), rewards).pair_accuracy == (1.0,) * len(pairs)


def test_a_domain_of_a_dialogue_is_that_of_its_pairs() -> None:
    config = RewardsConfig(rubrics={"near/mos": {"mos_gaussian": 1.0}})
    answers = turn("1. B\n2. C\n3. 3.50")
    assert score({**DIALOGUE, "domain": "near"}, answers, config).pair_accuracy[2] == pytest.approx(0.6065, abs=1e-4)
    assert score(DIALOGUE, answers, config).pair_accuracy[2] == 0.0


def test_gates_hold_for_dialogues_too() -> None:
    config = RewardsConfig(rubrics={"dialogue": {"accuracy": 1.0, "format": 1.0, "language_gate": 1.0}})
    answers = "1. B\n2. C\n3. 3.00"
    assert score(DIALOGUE, turn(answers, "Sharp."), config).total == 2.0
    assert score(DIALOGUE, turn(answers, "Картинка размыта"), config).total == 0.0


def test_importing_the_entry_point_is_light() -> None:
    heavy = "[m for m in ('torch', 'nltk', 'scipy', 'openai', 'pandas') if m in sys.modules]"
    program = f"import sys, tasks.rewards.score; print({heavy})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_truncated_and_unparseable_have_values_of_their_own() -> None:
    config = RewardsConfig(truncated=0.2, unparseable=0.1)
    cut = score(CHOICE, "<think>so many blo", config, truncated=True)
    assert (cut.accuracy, cut.pair_answers) == (0.2, (None,))
    assert "cut at the token limit" in cut.reason
    assert score(CHOICE, turn("all of them"), config).accuracy == 0.1
    assert score(CHOICE, turn("A"), config).accuracy == 0.0
    assert score(CHOICE, turn("B"), config, truncated=True).accuracy == 1.0
    assert score(DIALOGUE, "<think>", config, truncated=True).pair_accuracy == (0.2, 0.2, 0.2)


def test_untagged_answers_by_the_setting(rewards: RewardsConfig) -> None:
    assert score(CHOICE, "B", rewards).accuracy == 1.0
    assert score(CHOICE, "B", RewardsConfig(untagged="unparseable")).accuracy == 0.0


def test_the_reason_says_what_could_not_be_read(rewards: RewardsConfig) -> None:
    assert "no single option" in score(CHOICE, turn("A B C"), rewards).reason
    assert "3: mos_threshold: not one number" in score(DIALOGUE, turn("1. B\n2. C\n3. fine"), rewards).reason
    assert "no answer" in score(CHOICE, "<think>", rewards).reason


@pytest.mark.parametrize(
    ("sample", "named"),
    [
        ({"answer": "B"}, "problem_type"),
        ({"problem_type": "riddle", "answer": "B"}, "riddle"),
        ({"problem_type": "choice", "options": ["a"]}, "answer"),
        ({"problem_type": "choice", "options": ["a"], "answer": "D"}, "answer"),
        ({"problem_type": "mos", "answer": "fine"}, "answer"),
        ({"problem_type": "temporal_grounding", "answer": "soon"}, "answer"),
        ({"problem_type": "caption", "answer": "A dog."}, "events"),
        ({"problem_type": "structured_caption", "answer": "A dog.", "events": ["x"]}, "subjects"),
        ({"pairs": []}, "pairs"),
    ],
)
def test_malformed_samples_raise_naming_the_field(sample: dict, named: str, rewards: RewardsConfig) -> None:
    with pytest.raises(SampleError, match=named):
        score(sample, turn("B"), rewards)


def test_an_unknown_reward_in_a_rubric_is_named() -> None:
    with pytest.raises(SampleError, match="chioce"):
        score(CHOICE, turn("B"), RewardsConfig(rubrics={"choice": {"chioce": 1.0}}))


def test_default_rubrics_name_existing_rewards(rewards: RewardsConfig) -> None:
    from tasks.rewards.reward import REWARDS

    assert {n for rubric in rewards.rubrics.values() for n in rubric} <= {*REWARDS, "accuracy"}


def test_a_config_lays_its_rubrics_over_the_defaults() -> None:
    config = RewardsConfig(rubrics={"mos": {"mos_gaussian": 1.0}})
    assert config.rubrics["mos"] == {"mos_gaussian": 1.0}
    assert config.rubrics["choice"] == {"choice": 1.0, "format": 1.0}
    assert RewardsConfig.model_validate(config.model_dump()) == config
