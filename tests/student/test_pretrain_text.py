"""The text that the language model is pre-trained on says what was measured, and none of the pipeline's words."""

import numpy as np
import pytest

from data_contracts.records import DISTORTIONS, SEVERITIES
from tasks.student.pretrain import questions, reading
from tasks.student.pretrain.cell_statistics import measure_cells
from tasks.student.pretrain.questions import MEASURES, Asked, Measured, Yardstick, calibrate
from tasks.student.turns import split_answers, split_prompt, split_turn

CELL = 28
WORDS = ["dog", "tree", "house", "river", "stone", "light", "green"]


def crop(seed, boxes, yardstick=None):
    rng = np.random.default_rng(seed)
    clean = rng.integers(90, 160, (112, 112, 3)).astype(np.uint8)
    changed = clean.copy()
    for left, top, right, bottom in boxes:
        changed[top:bottom, left:right] //= 3
    names, values = measure_cells(changed, clean, CELL)
    return Measured(values, names, boxes, 112, yardstick or Yardstick({}, {}))


@pytest.fixture(scope="module")
def yardstick():
    boxes = [[], [(0, 0, 112, 112)], [(0, 0, 56, 56)], [(56, 28, 112, 112)]]
    return calibrate([crop(seed, boxes[seed % 4]) for seed in range(40)], CELL, np.random.default_rng(0))


def test_a_darkened_corner_is_named_and_marked(yardstick):
    dark = crop(1, [(0, 0, 56, 56)], yardstick)
    assert dark.change((0, 0, 56, 56)) == "it became darker"
    assert dark.change((56, 56, 112, 112)) == "nothing changed"
    assert dark.level("brightness", (0, 0, 56, 56)) in ("very low", "low")
    assert dark.level("brightness", (56, 56, 112, 112)) not in ("very low", "low")
    marked = "<|object_ref_start|>It became darker<|object_ref_end|><|box_start|>(0,0),(56,56)<|box_end|>"
    assert questions.changed_parts(dark) == marked


def test_an_unchanged_crop_has_nothing_to_mark(yardstick):
    assert questions.changed_parts(crop(1, [], yardstick)) == "Nothing changed."


def test_cells_count_by_their_share_of_a_box(yardstick):
    one = crop(2, [(0, 0, 56, 56)], yardstick)
    cells = one.statistics[0, :2, one.names.index("brightness")]
    assert one.mean("brightness", (14, 0, 42, 28)) == pytest.approx(cells.mean())


def test_the_letter_stands_before_the_answer():
    rng = np.random.default_rng(0)
    for _ in range(50):
        asked = questions.with_options(Asked("Which?", "right", ("a", "b", "c", "d")), rng)
        assert f"\n{asked.answer}. right\n" in asked.question


@pytest.mark.parametrize("num_questions", [1, 4])
def test_a_dialogue_has_as_many_answers_as_questions(yardstick, num_questions):
    one = crop(3, [(28, 28, 84, 112)], yardstick)
    for seed in range(20):
        prompt, turn = questions.dialogue(one, num_questions, np.random.default_rng(seed))
        _, answer = split_turn(turn)
        assert len(split_prompt(prompt, num_questions)) == len(split_answers(answer, num_questions)) == num_questions


def test_no_distortion_or_severity_of_the_pipeline_is_named(yardstick):
    one = crop(4, [(0, 0, 112, 56)], yardstick)
    text = " ".join(" ".join(questions.dialogue(one, 5, np.random.default_rng(seed))) for seed in range(60)).lower()
    assert not [name for name in (*DISTORTIONS, *SEVERITIES) if name.lower() in text]
    assert not {"distortion", "quality"} & set(text.split())
    assert set(MEASURES).isdisjoint(name.lower() for name in DISTORTIONS)


def test_merged_exercises_say_an_option_of_every_list_and_its_letter():
    rng = np.random.default_rng(1)
    for _ in range(100):
        prompt, turn = reading.merged_turn(WORDS, rng)
        num_lists = prompt.count("\nA. ")
        think, answer = split_turn(turn)
        pairs = list(zip(split_prompt(prompt, num_lists), split_answers(answer, num_lists), strict=True))
        assert 1 <= num_lists <= 4
        for question, letter in pairs:
            options = dict(line.split(". ", 1) for line in question.split("\n")[1:] if line[1:3] == ". ")
            assert f"{options[letter]} {letter}".lower() in think.lower()


def test_repeated_turns_pair_every_option_with_its_letter():
    prompt, turn = reading.repeated_turn(WORDS, np.random.default_rng(2), hard=False)
    options = dict(line.split(". ") for line in prompt.split("\n")[1:])
    for block in turn.split("<think> ")[1:]:
        said, rest = block.split(".</think><answer>")
        assert options[rest.split("</answer>")[0].removeprefix("1. ")] == said
