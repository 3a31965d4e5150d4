"""Exercises without a picture: finding an option, naming it, repeating a box. Text only, words drawn at random.

Choosing the letter of an option takes a habit that pictures teach too slowly: look for what was said, see which letter
stands before it. Here what is looked for stands in the reasoning or in the question, in any words of the vocabulary; so
the habit comes first, and does not depend on what the words mean. It is learned if, and only if, the first exercises
ask for many letters per list (ours; one letter per list left it at chance for as long as we tried).
"""

from __future__ import annotations

import numpy as np
from transformers import Qwen2Tokenizer

from tasks.student.pretrain.questions import LETTERS, box_text
from tasks.student.turns import assistant_turn, merge_answers, merge_prompt

_LARGEST_SIDE = 336
_MOST_WORDS = 3
_MOST_OPTIONS = 4
_MOST_EXERCISES = 4
_BOX_SHARE = 0.2
_REQUESTS = ("Answer with the letter.", "Give the letter only.", "Reply with one letter from the choices.")


def words_of(tokenizer: Qwen2Tokenizer) -> list[str]:
    """Words of at least three letters that are one token after a space, in lower case."""
    spelled = {token[1:] for token in tokenizer.get_vocab() if token.startswith("Ġ")}
    return sorted({word.lower() for word in spelled if word.isascii() and word.isalpha() and len(word) >= 3})


def _phrases(words: list[str], count: int, most_words: int, rng: np.random.Generator) -> list[str]:
    """Different phrases of at most so many words; some share a word."""
    phrases: list[str] = []
    while len(phrases) < count:
        chosen = [words[index] for index in rng.integers(len(words), size=int(rng.integers(1, most_words + 1)))]
        if len(chosen) > 1 and phrases and rng.random() < 0.3:
            chosen[0] = phrases[0].split()[0]
        phrase = " ".join(chosen)
        if phrase not in phrases:
            phrases.append(phrase)
    return phrases


def _box(rng: np.random.Generator) -> str:
    left, top, right, bottom = (int(edge) for edge in rng.integers(_LARGEST_SIDE + 1, size=4))
    return box_text((min(left, right), min(top, bottom), max(left, right), max(top, bottom)))


def exercise(words: list[str], rng: np.random.Generator) -> tuple[str, str, str]:
    """A question, what the reasoning says about it (or nothing), and the answer. Most options begin with a capital."""
    if rng.random() < _BOX_SHARE / 2:
        box = _box(rng)
        return f"Repeat {box}.", "", box
    if rng.random() < _BOX_SHARE / 2:
        options = list(dict.fromkeys(_box(rng) for _ in range(int(rng.integers(2, 4)))))
    else:
        options = _phrases(words, int(rng.integers(2, _MOST_OPTIONS + 1)), int(rng.integers(1, _MOST_WORDS + 1)), rng)
    written = options if rng.random() < 0.3 else _capitalised(options)
    listed = _listed(written)
    sought = int(rng.integers(len(options)))
    if rng.random() < 0.15:
        return f"What is {LETTERS[sought]}?\n{listed}", "", written[sought]
    request = _REQUESTS[int(rng.integers(len(_REQUESTS)))]
    if rng.random() < 0.4:
        return f"Which is {options[sought]}?\n{listed}\n{request}", "", LETTERS[sought]
    subject = _phrases(words, 1, _MOST_WORDS, rng)[0]
    return f"Which {subject}?\n{listed}\n{request}", options[sought], LETTERS[sought]


def _capitalised(options: list[str]) -> list[str]:
    return [option[0].upper() + option[1:] for option in options]


def _listed(options: list[str]) -> str:
    return "\n".join(f"{LETTERS[index]}. {option}" for index, option in enumerate(options))


def matching_turn(words: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """All options of one list named in random order, each with its letter: " tree B, house A". Single words."""
    options = _phrases(words, int(rng.integers(2, _MOST_OPTIONS + 1)), 1, rng)
    order = rng.permutation(len(options)).tolist()
    named = ",".join(f" {options[index]} {LETTERS[index]}" for index in order)
    return f"Which?\n{_listed(options)}", assistant_turn("", named)


def repeated_turn(words: list[str], rng: np.random.Generator, hard: bool) -> tuple[str, str]:
    """Five times an option of one list and its letter, mostly as a whole turn: reasoning that says it, the letter.

    hard: options of up to three words, most beginning with a capital.
    """
    most_words = int(rng.integers(1, _MOST_WORDS + 1)) if hard else 1
    options = _phrases(words, int(rng.integers(2, _MOST_OPTIONS + 1)), most_words, rng)
    written = _capitalised(options) if hard and rng.random() < 0.7 else options
    parts = []
    for index in rng.integers(len(options), size=5):
        said, letter = f" {options[index]}", LETTERS[index]
        forms = (
            f"{said} {letter},",
            assistant_turn(f"{said}.", letter),
            assistant_turn(f"{said}.", letter),
            assistant_turn(f"{said}.", f"1. {letter}"),
        )
        parts.append(forms[int(rng.integers(len(forms)))])
    return f"Which?\n{_listed(written)}", "".join(parts)


def reading_turn(words: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """One to four exercises, numbered if several, and their answers; reasoning in the order of the questions."""
    asked = [exercise(words, rng) for _ in range(int(rng.integers(1, _MOST_EXERCISES + 1)))]
    said = [reason for _, reason, _ in asked if reason]
    think = f"{', '.join(said)}.".capitalize() if said else ""
    prompt = merge_prompt([question for question, _, _ in asked])
    return prompt, assistant_turn(think, merge_answers([answer for _, _, answer in asked]))
