"""Gates: a turn that repeats itself or mixes languages earns nothing, whatever it answers (GLM-4.1V-Thinking)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from tasks.rewards.answers.choice import option_texts
from tasks.rewards.answers.turn import TAGS
from tasks.rewards.reward import Item, Outcome, reward

MAX_CHARACTERS = 65_536  # read of a turn
MIN_WORDS, WORDS = 48, 4  # shorter turns cannot repeat themselves badly; n of the n-grams of words
MIN_LONG, LETTERS = 192, 16  # the same for letters of words that run on, as Thai and loops without spaces do
LONG_WORD = 24
MIN_DISTINCT = 0.35  # share of distinct n-grams
LONGEST_RUN = 96  # of one character
MIN_LETTERS, MAX_SHARE = 8, 0.04  # letters of a script that nobody wrote before, ours
MAX_SYMBOL = 3  # Latin or Greek letters together that are a symbol, no word, ours


# Chinese characters and kana are words; what stands between white space or them is one.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]+")


def repeats_itself(text: str) -> bool:
    """True if a text of at least 48 words has few distinct 4-grams of words, or one character runs on for long (ours).

    Every Chinese character and kana counts as a word. Words of more than 24 characters, which other scripts without
    spaces and joined loops make, are judged together by the 16-grams of their letters, 192 letters or more.
    """
    text = text[:MAX_CHARACTERS]
    run, last = 0, ""
    for character in text:
        run = run + 1 if character == last else 1
        last = character
        if run > LONGEST_RUN:
            return True
    words = _WORD.findall(text)
    letters = [character for word in words if len(word) > LONG_WORD for character in word if character.isalpha()]
    return _few_distinct(words, WORDS, MIN_WORDS) or _few_distinct(letters, LETTERS, MIN_LONG)


def _few_distinct(units: Sequence[str], n: int, at_least: int) -> bool:
    num_grams = len(units) - n + 1
    if len(units) < at_least:
        return False
    return len({tuple(units[i : i + n]) for i in range(num_grams)}) < MIN_DISTINCT * num_grams


# Spelled with one another, in one language.
_ONE_SCRIPT = {"HIRAGANA": "KANA", "KATAKANA": "KANA", "KATAKANA-HIRAGANA": "KANA", "IDEOGRAPHIC": "CJK"}
_LATIN_OR_GREEK = "[A-Za-z\u00c0-\u024f\u0370-\u03ff]"
# What is written in letters and is no language: tags and special tokens, LaTeX's commands, and the symbols of formulas
# and units (x, kg, sin, θ), which are shorter than a word.
_NO_LANGUAGE = re.compile(
    "|".join(map(re.escape, TAGS))
    + r"|<\|\w{1,32}\|>|\\[A-Za-z]{1,32}"
    + rf"|(?<!{_LATIN_OR_GREEK}){_LATIN_OR_GREEK}{{1,{MAX_SYMBOL}}}(?!{_LATIN_OR_GREEK})"
)


@lru_cache(maxsize=8192)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name (LATIN, CJK, CYRILLIC ..), KANA for both kana, "" for anything that is
    no letter.
    """
    name = unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""
    return _ONE_SCRIPT.get(name, name)


def scripts_in(text: str) -> Counter[str]:
    """Letters of words per script, tags, LaTeX's commands and symbols aside."""
    text = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS])
    counts = Counter(script_of(character) for character in _NO_LANGUAGE.sub(" ", text))
    counts.pop("", None)
    return counts


def mixes_languages(text: str, question: str) -> bool:
    """True if the text uses, beyond a stray word, a script that is not the question's (ours).

    A question without words leaves the choice to the text: its main script is expected.
    """
    counts = scripts_in(text)
    if not counts:
        return False
    expected = set(scripts_in(question)) or {counts.most_common(1)[0][0]}
    if "KANA" in expected:
        expected.add("CJK")
    strange = sum(count for script, count in counts.items() if script not in expected)
    return strange >= MIN_LETTERS and strange > MAX_SHARE * sum(counts.values())


@reward(
    "repetition_gate",
    judges="gate",
    hacks=("loop",),
    source="GLM-4.1V-Thinking sec. 5; thresholds ours",
    departs="the released check finds any 50 characters that stand ten times; here the share of distinct n-grams "
    "decides, because lists of boxes and tables repeat without looping",
    formula="0 if fewer than 35 % of the turn's 4-grams of words are distinct (from 48 words; a Chinese character is "
    "a word), or of the 16-grams of letters in words that run on, or a character runs on; else 1",
    example=(
        {"problem_type": "mathematics", "answer": "1"},
        "<think>" + "wait wait " * 40 + "</think><answer>1</answer>",
        0.0,
    ),
)
def repetition_gate(item: Item) -> Outcome:
    """Loops are cut off: the total of the turn is 0."""
    return float(not repeats_itself(item.turn.text))


@reward(
    "language_gate",
    judges="gate",
    source="GLM-4.1V-Thinking sec. 5; thresholds ours",
    departs="the released check knows Chinese and English alone and fails a turn with a Chinese paragraph of 50 "
    "characters beside an English one of 200 words; here any script counts, from a sentence on, because short "
    "turns mix too",
    formula="0 if more than 4 % (and 8) of the letters in the turn's words are of a script that question, options and "
    "gold do not use; else 1",
    example=(
        {"problem_type": "mathematics", "question": "How many?", "answer": "1"},
        "<think>Сначала считаем, then add.</think><answer>1</answer>",
        0.0,
    ),
)
def language_gate(item: Item) -> Outcome:
    """Thinking stays in the question's language; scripts stand in for languages. Tags, LaTeX and symbols have none."""
    options = option_texts(item.sample.get("options"))
    asked = " ".join([str(item.sample.get("question") or ""), item.gold, *options])
    return float(not mixes_languages(item.turn.text, asked))
