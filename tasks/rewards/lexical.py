"""The offline judge's rules: words are compared, nothing is understood. Ours.

    entailed("A brown dog is running to a door.", ["A dog runs to a door.", "A cat sleeps."], 0.7)  ->  [True, False]
    same_answer("Who opens the door?", "a woman", "The woman.", 0.7)  ->  True

What it can judge: who does what, said in about the reference's words, in English. What it cannot: synonyms, passives
and other constructions (a no), a wrong word among many right ones (a yes), numbers in words. Where captions are free,
use a model as judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

MAX_JUDGED_CHARACTERS = 20_000
MAX_WORDS = 80  # of a sentence that is read, ours
MAX_GAP = 6  # content words between two neighbouring words of a statement, ours
MAX_TERSE, MAX_CONTENT = 6, 0.8  # more content words than the first, and a larger share than the second: a list, ours
MAX_ITEMS = 3  # single words between commas, ours
FOREIGN_FREE, FOREIGN_PER_KNOWN = 8, 2  # content words of a sentence that no statement has, ours

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_STOP_WORDS = frozenset(
    """
    a an the this that these those is are was were be been being am do does did has have had having will would can
    could shall should may might must of in on at by to from into onto with as for and or but if then than so it
    its he she they them his her their there here which who whom what when where while i you we us our your my me
    """.split()  # noqa: SIM905  a list would stand one word a line
)
_NEGATIONS = frozenset(
    """
    not no never nobody nothing none neither nor without cannot don't doesn't didn't isn't aren't wasn't weren't can't
    couldn't won't wouldn't hasn't haven't hadn't hardly fails failed refuses refused
    """.split()  # noqa: SIM905
)
_PREPOSITIONS = frozenset(
    ["of", "in", "on", "at", "by", "to", "from", "into", "onto", "with", "under", "over", "near", "behind", "through"]
)
_PRONOUNS = frozenset({"it", "he", "she", "they", "this", "these", "both"})
_HEDGES = frozenset(
    """
    or either maybe perhaps possibly probably might may could between any depends unless otherwise / |
    """.split()  # noqa: SIM905
)


def words_of(text: str) -> list[str]:
    """The words of a text's first MAX_JUDGED_CHARACTERS, in lower case."""
    return _WORD.findall(text[:MAX_JUDGED_CHARACTERS].lower().replace("’", "'"))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer  # seconds

    return PorterStemmer()


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Porter's stem of a lower-case word."""
    return str(_stemmer().stem(word)) if word.isalpha() else word


def content_words(text: str) -> list[str]:
    """The words of a text that are no function words, in order; all its words if it has no other."""
    words = words_of(text)
    return [word for word in words if word not in _STOP_WORDS] or words


def ordered_stems(text: str) -> tuple[str, ...]:
    """Stems of the `content_words` of a text, in order."""
    return tuple(stem(word) for word in content_words(text))


def content_stems(text: str) -> set[str]:
    """The set of `ordered_stems`."""
    return set(ordered_stems(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut at full stops, question and exclamation marks, semicolons and line ends."""
    pieces = re.split(r"[.!?;\n]", text[:MAX_JUDGED_CHARACTERS])
    return [piece.strip() for piece in pieces if piece.strip()]


def is_negated(text: str) -> bool:
    """True if a word of negation stands anywhere in the text."""
    return not _NEGATIONS.isdisjoint(words_of(text))


# -------------------------------------------------------------------------------------------------------- entailment
@dataclass(frozen=True)
class Clause:
    """A sentence, taken apart.

    num_words: all of them. num_content: those that are no function words. listed: single
    words stand between commas, all of them or more than MAX_ITEMS. stems: of the content words, in order. main:
    those before the first preposition, in order; moved: the others, which a writer may put first.
    """

    num_words: int
    num_content: int
    listed: bool
    stems: tuple[str, ...]
    main: tuple[str, ...]
    moved: frozenset[str]
    negated: bool


def clause_of(sentence: str) -> Clause:
    words = words_of(sentence)
    content = [(i, stem(word)) for i, word in enumerate(words) if word not in _STOP_WORDS | _NEGATIONS]
    first = next((i for i, word in enumerate(words) if word in _PREPOSITIONS), len(words))
    stems = tuple(s for _, s in content) or ordered_stems(sentence)
    main = tuple(s for i, s in content if i < first)
    moved = frozenset(s for i, s in content if i > first)
    parts = [len(ordered_stems(part)) for part in sentence.split(",")]
    listed = parts.count(1) > MAX_ITEMS or 1 < parts.count(1) == len(parts)
    return Clause(len(words), len(content), listed, stems, main, moved, is_negated(sentence))


@lru_cache(maxsize=1024)
def clauses_of(text: str) -> tuple[Clause, ...]:
    """The sentences of a text; one that begins with a pronoun stands there once more, after the sentence before it."""
    found: list[Clause] = []
    before = ""
    for sentence in sentences(text):
        if before and not _PRONOUNS.isdisjoint(words_of(sentence)[:1]):
            found.append(clause_of(f"{before} {sentence}"))
        found.append(clause_of(sentence))
        before = sentence
    return tuple(found)


def entailed(text: str, statements: Sequence[str], share: float) -> list[bool]:
    """For each statement: does the text say it?

    One sentence of the text (with the sentence before it, where it begins with a pronoun) must hold ``share`` of the
    statement's content words, stemmed: those before the statement's first preposition in its order and close together,
    the others after a preposition. Both are negated or neither. A sentence that lists words is not read.
    """
    wanted = [clause_of(statement) for statement in statements]
    known = frozenset(s for statement in wanted for s in statement.stems)
    told = [clause for clause in clauses_of(text) if not _lists_words(clause, known)]
    return [any(_says(clause, statement, share) for clause in told) for statement in wanted]


def _lists_words(clause: Clause, known: frozenset[str]) -> bool:
    """Hardly any function words, single words between commas, very long, or far more content words than the statements
    have."""
    bare = clause.num_content > MAX_TERSE and clause.num_content > MAX_CONTENT * clause.num_words
    stems = set(clause.stems)
    foreign = len(stems - known) > FOREIGN_FREE + FOREIGN_PER_KNOWN * len(stems & known)
    return bare or foreign or clause.listed or clause.num_words > MAX_WORDS


def _says(clause: Clause, wanted: Clause, share: float) -> bool:
    if not wanted.stems or clause.negated != wanted.negated:
        return False
    main, moved = (wanted.main, wanted.moved) if wanted.main else (wanted.stems, frozenset[str]())
    num_main = num_in_order(main, clause.stems)
    return num_main is not None and num_main + len(moved & clause.moved) >= share * (len(main) + len(moved))


def num_in_order(wanted: Sequence[str], stems: Sequence[str]) -> int | None:
    """How many of the wanted stems stand among the stems; None unless they stand in order, at most MAX_GAP others
    between neighbours."""
    present = [s for s in wanted if s in stems]
    reached: dict[int, int] = {}  # place of a stem -> length of the longest run of the present ones that ends there
    for s in present:
        ends = {j: 1 for j, t in enumerate(stems) if t == s}
        for j in ends:
            near = [length for place, length in reached.items() if j - MAX_GAP - 1 <= place < j]
            ends[j] += max(near, default=0)
        reached = {j: max(reached.get(j, 0), ends.get(j, 0)) for j in reached | ends}
    return len(present) if max(reached.values(), default=0) == len(present) else None


# --------------------------------------------------------------------------------------------------------- agreement
def same_answer(question: str, gold: str, answer: str, share: float) -> bool:
    """Does the answer say what the gold says, and commit to it?

    All of the gold's words, each no oftener than there, in the order they have in each of its parts ("red and blue"
    has two); few words beyond those of gold and question; no other number, no negation of its own; nothing that hedges,
    no alternative that the question offers, no lone word of the question as a part of its own ("door, a woman"). So no
    gold repeated, wrapped in nonsense, denied, swapped or hedged.
    """
    said, asked, wanted = content_stems(answer), content_stems(question), content_stems(gold)
    allowed = Counter(stem(word) for word in words_of(gold))
    num_said = Counter(stem(word) for word in words_of(answer))
    stems = ordered_stems(answer)
    lone = {part[0] for part in parts_of(answer) if len(part) == 1} - wanted
    return (
        bool(wanted)
        and wanted <= said
        and len(said & (wanted | asked)) >= share * len(said)
        and all(count <= allowed[s] for s, count in num_said.items() if s in wanted)
        and {s for s in said if s[0].isdigit()} <= {s for s in wanted | asked if s[0].isdigit()}
        and is_negated(gold) == is_negated(answer)
        and all(num_in_order(part, stems) == len(part) for part in parts_of(gold))
        and not hedges(answer) - hedges(gold)
        and not alternatives(question) & said - wanted
        and not lone & asked
    )


def parts_of(answer: str) -> list[tuple[str, ...]]:
    """Stems of the parts between commas, semicolons and "and"."""
    parts = re.split(r"[,;]|\band\b", answer[:MAX_JUDGED_CHARACTERS].lower())
    return [stems for part in parts if (stems := ordered_stems(part))]


def hedges(text: str) -> frozenset[str]:
    """The words and signs of a text that leave open what it says: "or", "maybe", "/"."""
    return _HEDGES & {*words_of(text), *text}


def alternatives(question: str) -> set[str]:
    """Stems of the words that a question offers to choose from: "red", "blue", "green" of "Red, blue or green?"."""
    pieces = re.split(r"\bor\b", question[:MAX_JUDGED_CHARACTERS].lower())
    offered: set[str] = set()
    for before, after in pairwise(pieces):
        items = [stems for item in re.split(r"[,;:]", before) if (stems := ordered_stems(item))]
        offered |= {stems[-1] for i, stems in enumerate(items) if i == len(items) - 1 or len(stems) <= 2}
        offered |= set(ordered_stems(re.split(r"[,;:?.]", after)[0])[:1])
    return offered
