"""Rewards beside other answers: length bonus, order bonus, ranking."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_config.schema import OrderBonusConfig, RewardsConfig
from tasks.rewards.batch import score_batch
from tasks.rewards.examples import turn
from tasks.rewards.group import length_bonuses, order_bonuses, prefers, ranking_rewards
from tasks.rewards.score import score

CHOICE = {"problem_type": "choice", "options": ["a", "b"], "answer": "B"}


def test_length_bonus_needs_two_correct_answers_of_any_length(rewards: RewardsConfig) -> None:
    assert length_bonuses([1, 1, 0], [400, 10, 400], rewards) == [0.2, 0.0, 0.0]
    assert length_bonuses([1, 0, 0], [400, 400, 400], rewards) == [0.0, 0.0, 0.0]
    assert length_bonuses([1, 1, 1], [319, 320, 512], rewards) == [0.0, 0.2, 0.2]
    assert length_bonuses([1, 1], [513, 400], rewards) == [0.0, 0.2]


def test_order_bonus_of_t_grpo(rewards: RewardsConfig) -> None:
    """p = 2/8 >= .8 * 1/4: both correct ordered answers get .3, so 2 + .3 beside 1."""
    ordered, shuffled = [1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0]
    assert order_bonuses(ordered, shuffled, rewards) == [0.3, 0.3, 0, 0, 0, 0, 0, 0]
    assert order_bonuses(ordered, [1, 1, 0, 0], rewards) == [0.0] * 8
    assert order_bonuses(ordered, [], rewards) == [0.0] * 8


def test_order_bonus_at_the_threshold_of_code_and_paper() -> None:
    ordered, shuffled = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    code = RewardsConfig(order_bonus=OrderBonusConfig(mu=0.8))
    paper = RewardsConfig(order_bonus=OrderBonusConfig(mu=1.0))
    assert sum(order_bonuses(ordered, shuffled, code)) == pytest.approx(1.2)
    assert sum(order_bonuses(ordered, shuffled, paper)) == 0.0


def test_mean_and_share_differ_on_partial_rewards() -> None:
    ordered, shuffled = [0.2, 0.2], [0.9, 0.0]
    assert sum(order_bonuses(ordered, shuffled, RewardsConfig())) == 0.0
    share = RewardsConfig(order_bonus=OrderBonusConfig(by="share"))
    assert sum(order_bonuses(ordered, shuffled, share)) == pytest.approx(0.6)


def test_ranking_golden_of_visualquality_r1() -> None:
    assert prefers(4, 3, 0.25, 0.25) == pytest.approx(0.92135, abs=1e-5)
    spread = math.sqrt(0.125)  # two answers at 4 ± spread have variance .25 (ddof 1)
    scores = [[4 + spread, 4 - spread], [3 + spread, 3 - spread]]
    rewards = ranking_rewards(scores, [4.0, 3.0])
    p = prefers(4 + spread, 3, 0.25, 0.25)
    assert rewards[0][0] == pytest.approx(min(1.0, math.sqrt(p + 1e-6) + math.sqrt(1e-6)))
    # right order beats wrong order, and a tie in the gold wants p = .5
    assert (rewards[0][0] or 0) > (ranking_rewards(scores, [3.0, 4.0])[0][0] or 0)
    assert ranking_rewards([[3.0], [3.0]], [2.0, 2.0])[0][0] == pytest.approx(1.0, abs=1e-5)


def test_ranking_without_anything_to_compare() -> None:
    assert ranking_rewards([[3.0, None]], [2.0]) == [[None, None]]
    assert ranking_rewards([[None], [3.0]], [2.0, 1.0]) == [[0.0], [None]]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(0, 5),
)
def test_ranking_stays_in_range(scores: list[list[float | None]], ties: int) -> None:
    golds = [float(i // (ties + 1)) for i in range(len(scores))]
    assert all(r is None or 0 <= r <= 1 for row in ranking_rewards(scores, golds) for r in row)


def test_score_alone_says_that_group_rewards_do_not_apply() -> None:
    config = RewardsConfig(rubrics={"choice": {"choice": 1, "format": 1, "length_bonus": 1, "order_bonus": 1}})
    scored = score(CHOICE, turn("B"), config)
    assert (scored.parts["length_bonus"], scored.parts["order_bonus"], scored.total) == (None, None, 2.0)


def test_a_batch_fills_group_rewards_in() -> None:
    config = RewardsConfig(rubrics={"choice": {"choice": 1, "format": 1, "length_bonus": 1, "order_bonus": 1}})
    [scores] = score_batch(
        [CHOICE],
        [[turn("B"), turn("B"), turn("A")]],
        config,
        num_tokens=[[400, 10, 400]],
        shuffled=[[turn("A"), turn("A")]],
    )
    assert [s.total for s in scores] == pytest.approx([2.5, 2.3, 1.0])
    assert scores[0].parts["length_bonus"] == 0.2
    [pictures] = score_batch([CHOICE], [[turn("B")]], config, num_tokens=[[400]], shuffled=[None])
    assert pictures[0].parts["order_bonus"] is None


def test_every_prompt_of_a_batch_has_its_own_shuffled_answers() -> None:
    """The first is answered better without the order of time, the second is not."""
    config = RewardsConfig(rubrics={"choice": {"choice": 1, "order_bonus": 1}})
    answers, shuffled = [[turn("B"), turn("A")]] * 2, [[turn("B"), turn("B")], [turn("A"), turn("A")]]
    scores = score_batch([CHOICE, CHOICE], answers, config, shuffled=shuffled)
    assert [[s.total for s in group] for group in scores] == [[1, 0], [1.3, 0]]


def test_every_sample_of_a_batch_is_scored_by_its_own_type(rewards: RewardsConfig) -> None:
    """Released code takes the first sample's type for the whole batch."""
    samples = [CHOICE, {"problem_type": "mos", "answer": "3.00"}, {"problem_type": "regression", "answer": "4"}]
    scores = score_batch(samples, [[turn("B")], [turn("3.10")], [turn("3")]], rewards)
    assert [group[0].accuracy for group in scores] == [1.0, 1.0, 0.75]


def test_goldens_through_the_entry_point() -> None:
    """T-GRPO: 2 + .3 beside 1. VisualQuality-R1: q 4 among {3.5, 4, 4.5} against {2.5, 3, 3.5}, variances .25."""
    config = RewardsConfig(rubrics={"choice": {"choice": 1, "format": 1, "order_bonus": 1}, "mos": {"mos_ranking": 1}})
    answers = [turn("B")] * 2 + [turn("A")] * 6
    [group] = score_batch([CHOICE], [answers], config, shuffled=[[turn("A")] * 4])
    assert [s.total for s in group] == pytest.approx([2.3, 2.3, 1, 1, 1, 1, 1, 1])
    samples = [{"problem_type": "mos", "answer": "4.00"}, {"problem_type": "mos", "answer": "3.00"}]
    ranked = score_batch(
        samples, [[turn(a) for a in ("4", "4.5", "3.5")], [turn(a) for a in ("3", "3.5", "2.5")]], config
    )
    assert ranked[0][0].total == pytest.approx(math.sqrt(0.92135 + 1e-6) + math.sqrt(1e-6), abs=1e-5)


def test_ranking_in_a_batch() -> None:
    config = RewardsConfig(rubrics={"mos": {"mos_ranking": 1.0}})
    samples = [{"problem_type": "mos", "answer": "4.00"}, {"problem_type": "mos", "answer": "2.00"}]
    right = score_batch(samples, [[turn("4.5"), turn("4.0")], [turn("1.5"), turn("2.0")]], config)
    wrong = score_batch(samples, [[turn("1.5"), turn("2.0")], [turn("4.5"), turn("4.0")]], config)
    assert right[0][0].total > 0.95
    assert wrong[0][0].total < 0.1
