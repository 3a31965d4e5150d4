"""Gates against repetition and mixed languages."""

from __future__ import annotations

import pytest

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


UNSPACED = {
    "Chinese": (
        "左边的桌子上有三个篮子，每个篮子里装着两个红苹果，一共六个。右边的桌子上还有两个篮子，每个里面是三个青苹果，也是六个。"
        "把两张桌子加起来就是十二个苹果，没有哪个被数了两遍，因为桌子并不相连。长凳下面的木箱是空的，所以答案不变。",
        "等一下，让我再检查一遍。",
    ),
    "Japanese": (
        "左のテーブルには籠が三つあり、それぞれに赤いりんごが二個ずつ入っているので六個になる。右のテーブルにも籠が二つあって、"
        "青いりんごが三個ずつだから、これも六個だ。合わせて十二個で、机は離れているため二重に数えたものはない。",
        "もう一度確認します。",
    ),
    "Thai": (
        "บนโต๊ะด้านซ้ายมีตะกร้าสามใบแต่ละใบมีแอปเปิลสีแดงสองผลรวมเป็นหกผลส่วนโต๊ะด้านขวามีตะกร้าอีกสองใบใบละสามผล"
        "ก็ได้หกผลเช่นกันเมื่อนำมารวมกันจึงเป็นสิบสองผลและไม่มีผลใดถูกนับซ้ำเพราะโต๊ะทั้งสองตั้งอยู่ห่างกันส่วนลังไม้ใต้ม้านั่งนั้นว่างเปล่าคำตอบจึงไม่เปลี่ยน",
        "รอสักครู่ขอตรวจสอบอีกครั้ง",
    ),
    "joined": ("".join(PROSE.split()), "waitletmecheckagain"),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_loops_in_languages_without_spaces(language: str, rewards: RewardsConfig) -> None:
    prose, phrase = UNSPACED[language]
    assert not repeats_itself(prose)
    assert repeats_itself(phrase * 30)
    assert repeats_itself(prose + phrase * 100)
    sample = {**SAMPLE, "question": prose}
    assert score(sample, turn("<|begin_of_box|>12<|end_of_box|>", phrase * 30), rewards).total == 0.0


def test_a_track_that_stands_still_is_no_loop() -> None:
    boxes = [[0, 0, 0.5, 0.5]] * 8
    assert not repeats_itself(turn(str(boxes)))
    assert not repeats_itself(turn(str(boxes).replace(" ", "")))


def test_mixed_scripts_earn_nothing(rewards: RewardsConfig) -> None:
    mixed = score(SAMPLE, turn("<|begin_of_box|>12<|end_of_box|>", "六个苹果加六个苹果等于十二个 so twelve"), rewards)
    assert mixed.total == 0.0
    assert mixed.parts["language_gate"] == 0.0


def test_the_language_of_the_question_and_stray_letters_are_allowed() -> None:
    assert not mixes_languages("Двенадцать яблок", "Сколько яблок?")
    assert not mixes_languages(PROSE + " π α", "How many?")
    assert mixes_languages("Двенадцать яблок", "How many?")
    assert not mixes_languages("12 + 12", "How many?")


BOXED_SIX = "<|begin_of_box|>6<|end_of_box|>"


@pytest.mark.parametrize(
    ("question", "think"),
    [
        ("有多少个苹果？", "左边有三个篮子，每个篮子两个苹果。"),
        ("Сколько яблок?", "Три корзины по два яблока, значит шесть."),
        ("りんごはいくつ？", "リンゴを数えると、三つのカゴに二個ずつあります。"),
        ("速度是多少？", "设v=5 m/s，由\\frac{1}{2}mv^2=E和\\sin\\theta得x=3 km，其中sin θ=0.5，所以结果是六。"),
        ("りんごはいくつ？", "バスケットのリンゴをカウントする。机上左側三籠各二個、全部六個、確認済。"),
        ("噪声在哪里？", "这里<|object_ref_start|>噪声<|object_ref_end|><|box_start|>(0,0),(5,5)<|box_end|>很明显。"),
        ("How fast?", "With 𝑣 = 𝑎𝑡, 𝑥 = 𝑣𝑡, 𝐹 = 𝑚𝑎, 𝐸 = 𝑚𝑐, 𝑝 = 𝑚𝑣 the speed is six."),
        ("Find the force in N.", "With θ, μ, ρ, λ, α, β, γ, δ, ω, Δt and 10 µm the force is μN."),
        ("Which?", "The sign says nothing, so the second one."),
        ("2x + 3 = 15, x = ?", "Двенадцать пополам, значит шесть."),
    ],
)
def test_a_right_turn_in_the_language_of_its_question_passes(question: str, think: str, rewards: RewardsConfig) -> None:
    """Tags, LaTeX's commands and the symbols of formulas and units belong to no language."""
    sample = {"problem_type": "physics", "question": question, "answer": "6"}
    assert score(sample, turn(BOXED_SIX, think), rewards).total == 2.0


def test_a_foreign_language_is_found_beside_symbols(rewards: RewardsConfig) -> None:
    for question, think in (
        ("How many?", "Πρώτα μετράμε τα μήλα και μετά τα προσθέτουμε."),
        ("有多少个苹果？", "We count the apples of each basket."),
        ("Сколько яблок?", "三个篮子，每个篮子两个苹果。"),
    ):
        sample = {"problem_type": "physics", "question": question, "answer": "6"}
        assert score(sample, turn(BOXED_SIX, think), rewards).parts["language_gate"] == 0.0, think


def test_the_options_of_a_question_may_be_quoted() -> None:
    config = RewardsConfig(rubrics={"choice": {"choice": 1.0, "language_gate": 1.0}})
    sample = {
        "problem_type": "choice",
        "question": "哪一个？",
        "options": ["motion blur", "overexposure"],
        "answer": "A",
    }
    assert score(sample, turn("motion blur", "是motion blur。"), config).total == 1.0
    gated = RewardsConfig(rubrics={**config.rubrics, "dialogue": {"accuracy": 1.0, "language_gate": 1.0}})
    dialogue = {"pairs": [sample, sample]}
    assert score(dialogue, turn("1. motion blur\n2. A", "是motion blur。"), gated).total == 1.0
