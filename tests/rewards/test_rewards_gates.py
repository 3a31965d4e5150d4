"""Gates against repetition and mixed languages."""

from __future__ import annotations

from pipeline_config.schema import RewardsConfig
from tasks.rewards.examples import turn
from tasks.rewards.gates import mixes_languages, repeats_itself
from tasks.rewards.score import score

SAMPLE = {"problem_type": "mathematics", "question": "How many apples are there?", "answer": "12"}
PROSE = (
    "There are three baskets on the left table and each of them holds two red apples, which makes six. On the right "
    "table stand two more baskets with three green apples each, so six again. Adding both tables gives twelve apples "
    "in all, and none of them is counted twice because the tables do not touch. The crates under the bench are empty."
)


def test_a_loop_earns_nothing_whatever_it_answers(rewards: RewardsConfig) -> None:
    boxed = "<|begin_of_box|>12<|end_of_box|>"
    good = score(SAMPLE, turn(boxed, PROSE), rewards)
    loop = score(SAMPLE, turn(boxed, "wait, let me check again. " * 40), rewards)
    assert (good.total, loop.total) == (2.0, 0.0)
    assert (loop.parts["repetition_gate"], loop.accuracy) == (0.0, 1.0)


def test_prose_does_not_repeat_itself() -> None:
    assert not repeats_itself(PROSE)
    assert not repeats_itself("no " * 20)
    assert repeats_itself("no " * 60)
    assert repeats_itself("a" + "!" * 200)


def test_mixed_scripts_earn_nothing(rewards: RewardsConfig) -> None:
    mixed = score(SAMPLE, turn("<|begin_of_box|>12<|end_of_box|>", "六个苹果加六个苹果等于十二个 so twelve"), rewards)
    assert mixed.total == 0.0
    assert mixed.parts["language_gate"] == 0.0


def test_the_language_of_the_question_and_stray_letters_are_allowed() -> None:
    assert not mixes_languages("Двенадцать яблок", "Сколько яблок?")
    assert not mixes_languages(PROSE + " π α", "How many?")
    assert mixes_languages("Двенадцать яблок", "How many?")
    assert not mixes_languages("12 + 12", "How many?")
