"""Exercises without a picture: finding the letter of an option. Text only, words drawn at random.

Choosing the letter of an option takes a habit that pictures teach too slowly: say the option, see which letter stands
before it in the list, say that. The habit does not depend on what the words mean, so it comes first. It is learned if,
and only if, the first exercises ask for many letters per list (ours; one letter per list left it at chance for as long
as we tried), and it carries over to pictures if the letter is said right after the option.
"""

from __future__ import annotations

import numpy as np
from transformers import Qwen2Tokenizer

from tasks.student.pretrain.questions import LETTERS, OPTIONS_REQUEST, pick
from tasks.student.turns import assistant_turn, merge_answers, merge_prompt

_MOST_WORDS = 3
_MOST_OPTIONS = 4
_MOST_LISTS = 4


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


def merged_turn(words: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """One to four numbered lists with a question each: reasoning says an option of every list and its letter."""
    questions, said, answers = [], [], []
    for _ in range(int(rng.integers(1, _MOST_LISTS + 1))):
        options = _phrases(words, int(rng.integers(2, _MOST_OPTIONS + 1)), int(rng.integers(1, _MOST_WORDS + 1)), rng)
        written = _capitalised(options) if rng.random() < 0.7 else options
        subject = _phrases(words, 1, _MOST_WORDS, rng)[0]
        chosen = int(rng.integers(len(options)))
        questions.append(f"Which {subject}?\n{_listed(written)}\n{pick(rng, OPTIONS_REQUEST)}")
        said.append(f"{(options if rng.random() < 0.6 else written)[chosen]} {LETTERS[chosen]}")
        answers.append(LETTERS[chosen])
    separator = pick(rng, (", ", ". "))
    think = f"{_phrases(words, 1, _MOST_WORDS, rng)[0].capitalize()}. {separator.join(said)}."
    return merge_prompt(questions), assistant_turn(think, merge_answers(answers))
