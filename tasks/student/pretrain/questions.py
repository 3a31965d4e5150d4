"""Questions about what was measured, and their answers: the text that the language model is pre-trained on.

Measures are means of cell statistics over a region. Everything asked and answered follows from them and from where the
crop was changed; the wording is this module's own. Several questions are asked at a time, numbered; some give options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.student.pretrain.pool import Box, draw_box
from tasks.student.turns import assistant_turn, merge_answers, merge_prompt

Values = NDArray[np.float32]

# measure -> (statistics that are averaged, sign)
MEASURES: dict[str, tuple[tuple[str, ...], float]] = {
    "brightness": (("brightness",), 1),
    "contrast": (("contrast",), 1),
    "colour strength": (("colour",), 1),
    "fine detail": (("band0",), 1),
    "middle detail": (("band1",), 1),
    "coarse detail": (("band2", "band3"), 1),
    "grain": (("grain", "colour_grain"), 1),
    "sharpest edge": (("sharpest",), 1),
    "grid steps": (("grid_h", "grid_v"), 1),
    "repeated pixels": (("repeat_h", "repeat_v"), 1),
    "flat area": (("flat",), 1),
    "dark pixels": (("dark",), 1),
    "white pixels": (("bright",), 1),
    "departure": (("change",), 1),
    "similarity": (("similarity",), 1),
    "lost fine detail": (("kept_fine",), -1),
    "lost coarse detail": (("kept_coarse",), -1),
    "added detail": (("added_fine",), 1),
    "gained light": (("shift",), 1),
    "lost contrast": (("spread",), -1),
    "ripple beside edges": (("beside_edges",), 1),
    "new grid steps": (("new_grid_h", "new_grid_v"), 1),
    "new repeated pixels": (("new_repeat_h", "new_repeat_v"), 1),
    "soft change": (("smoothness_h", "smoothness_v"), 1),
}
# what changed most -> (statistic or difference of two, sign); the largest standardised value is the answer
CHANGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "it lost fine detail": ((), ("gain_h", "gain_v", "kept_fine")),
    "it lost coarse detail": ((), ("far_gain_h", "far_gain_v", "kept_coarse")),
    "it was smeared across": (("gain_v", "far_gain_v"), ("gain_h", "far_gain_h")),
    "it was smeared up and down": (("gain_h", "far_gain_h"), ("gain_v", "far_gain_v")),
    "it gained detail": (("gain_h", "gain_v", "added_fine"), ()),
    "it became brighter": (("shift",), ()),
    "it became darker": ((), ("shift",)),
    "it lost contrast": ((), ("spread",)),
    "its edges gained ripples": (("beside_edges", "kept_coarse", "far_gain_h"), ()),
    "it gained grid steps": (("new_grid_h", "new_grid_v"), ()),
    "its pixels repeat": (("new_repeat_h", "new_repeat_v"), ()),
}
NOTHING = "nothing changed"
LEVELS = ("very low", "low", "medium", "high", "very high")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
LETTERS = "ABCDEF"
OPTIONS_REQUEST = ("Answer with the letter.", "Give the letter only.", "Reply with one letter from the choices.")


@dataclass(frozen=True)
class Yardstick:
    """Quantiles of every measure over boxes drawn at random, and the scale of every change."""

    measures: dict[str, Values]
    changes: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Measured:
    """A crop's statistics (rows x columns x statistics), where it was changed, and how to read them."""

    statistics: Values
    names: list[str]
    boxes: list[Box]
    side: int
    yardstick: Yardstick
    _cache: dict[tuple[str, Box], float] = field(default_factory=dict)

    @property
    def whole(self) -> Box:
        return (0, 0, self.side, self.side)

    def mean(self, statistic: str, box: Box) -> float:
        """Mean of a statistic over a box of pixels, cells weighted by their share of it."""
        key = (statistic, box)
        if key not in self._cache:
            rows, columns = self.statistics.shape[:2]
            cell = self.side / rows
            weights = np.outer(_overlaps(box[1], box[3], cell, rows), _overlaps(box[0], box[2], cell, columns))
            values = self.statistics[..., self.names.index(statistic)]
            self._cache[key] = float((values * weights).sum() / weights.sum())
        return self._cache[key]

    def measure(self, name: str, box: Box) -> float:
        """A measure of MEASURES over a box."""
        statistics, sign = MEASURES[name]
        return sign * float(np.mean([self.mean(statistic, box) for statistic in statistics]))

    def rank(self, name: str, box: Box) -> float:
        """Share of random boxes that have less of a measure, in [0, 1)."""
        edges = self.yardstick.measures[name]
        return float(np.searchsorted(edges, self.measure(name, box))) / (len(edges) + 1)

    def level(self, name: str, box: Box) -> str:
        return LEVELS[int(self.rank(name, box) * len(LEVELS))]

    def change(self, box: Box) -> str:
        """What changed most in a box."""
        if self.mean("changed", box) < 0.15:
            return NOTHING
        scores = {
            name: (_change(self, name, box) - mean) / scale for name, (mean, scale) in self.yardstick.changes.items()
        }
        return max(scores, key=lambda name: scores[name])


def _overlaps(start: int, stop: int, cell: float, count: int) -> Values:
    edges = np.arange(count + 1, dtype=np.float32) * cell
    return np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None).astype(np.float32)


def _change(measured: Measured, name: str, box: Box) -> float:
    risen, fallen = CHANGES[name]
    total = sum(measured.mean(statistic, box) for statistic in risen)
    return (total - sum(measured.mean(statistic, box) for statistic in fallen)) / (len(risen) + len(fallen))


def calibrate(crops: list[Measured], cell: int, rng: np.random.Generator) -> Yardstick:
    """Quantiles of the measures and scales of the changes over one random box per crop."""
    pairs = [(crop, draw_box(crop.side, cell, rng)) for crop in crops]
    quantiles = np.linspace(0.01, 0.99, 99)
    measures = {
        name: np.quantile([crop.measure(name, box) for crop, box in pairs], quantiles).astype(np.float32)
        for name in MEASURES
    }
    changes = {}
    for name in CHANGES:
        values = np.array([_change(crop, name, box) for crop, box in pairs])
        spread = np.subtract(*np.quantile(values, [0.95, 0.5]))
        changes[name] = (float(np.median(values)), float(max(spread, 0.01)))
    return Yardstick(measures, changes)


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and the other answers it could have had."""

    question: str
    answer: str
    others: tuple[str, ...] = ()


def box_text(box: Box) -> str:
    """A box as this checkpoint reads and writes it: pixels of the picture."""
    return f"<|box_start|>({box[0]},{box[1]}),({box[2]},{box[3]})<|box_end|>"


def pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def _region(crop: Measured, rng: np.random.Generator) -> tuple[Box, str]:
    """The whole picture, one of the changed boxes, a ninth of the picture by its name, or any box."""
    draw = rng.random()
    if draw < 0.3:
        return crop.whole, pick(rng, ("in the picture", "in the whole picture", "overall"))
    if draw < 0.5 and crop.boxes:
        box = crop.boxes[int(rng.integers(len(crop.boxes)))]
        return (box[0], box[1], box[2], box[3]), f"in {box_text(box)}"
    if draw < 0.65:
        row, column = (int(index) for index in rng.integers(3, size=2))
        third = crop.side / 3
        edges = [round(third * index) for index in range(4)]
        return (edges[column], edges[row], edges[column + 1], edges[row + 1]), f"at the {PLACES[row][column]}"
    box = draw_box(crop.side, round(crop.side / len(crop.statistics)), rng)
    return box, f"in {box_text(box)}"


def ask_level(crop: Measured, rng: np.random.Generator) -> Asked:
    box, where = _region(crop, rng)
    name = pick(rng, list(MEASURES))
    level = crop.level(name, box)
    question = pick(rng, (f"How much {name} is there {where}?", f"{name.capitalize()} {where}?"))
    return Asked(question, level.capitalize(), tuple(other.capitalize() for other in LEVELS if other != level))


def ask_rank(crop: Measured, rng: np.random.Generator) -> Asked:
    box, where = _region(crop, rng)
    name = pick(rng, list(MEASURES))
    rank = f"{10 * crop.rank(name, box):.1f}"
    question = pick(rng, (f"Rate the {name} {where} from 0 to 10.", f"What is the {name} {where}, as a number?"))
    return Asked(question, rank)


def ask_place(crop: Measured, rng: np.random.Generator) -> Asked:
    name = pick(rng, list(MEASURES))
    third = [round(crop.side / 3 * index) for index in range(4)]
    values = {
        PLACES[row][column]: crop.measure(name, (third[column], third[row], third[column + 1], third[row + 1]))
        for row in range(3)
        for column in range(3)
    }
    ranked = sorted(values, key=lambda place: values[place])
    best, extreme = (ranked[-1], "most") if rng.random() < 0.75 else (ranked[0], "least")
    others = [place for place in ranked if place != best]
    far = others[:6] if extreme == "most" else others[-6:]
    return Asked(f"Where is the {extreme} {name}?", best.capitalize(), tuple(place.capitalize() for place in far))


def ask_comparison(crop: Measured, rng: np.random.Generator) -> Asked:
    name = pick(rng, list(MEASURES))
    cell = round(crop.side / len(crop.statistics))
    boxes = [draw_box(crop.side, cell, rng) for _ in range(3)]
    boxes.sort(key=lambda box: crop.rank(name, box))
    less, more = boxes[0], boxes[-1]
    question = pick(rng, (f"Which has more {name}?", f"Where is the {name} stronger?"))
    return Asked(question, box_text(more), (box_text(less), *(box_text(box) for box in boxes[1:-1])))


def ask_change(crop: Measured, rng: np.random.Generator) -> Asked:
    box, where = _region(crop, rng)
    answer = crop.change(box)
    question = pick(rng, (f"What changed most {where}?", f"How does it differ from the clean picture {where}?"))
    others = [other for other in (*CHANGES, NOTHING) if other != answer]
    return Asked(question, answer.capitalize(), tuple(other.capitalize() for other in others))


def ask_changed_parts(crop: Measured, rng: np.random.Generator) -> Asked:
    question = pick(rng, ("Mark every part that differs from the clean picture.", "Which parts were changed?"))
    return Asked(question, changed_parts(crop))


def changed_parts(crop: Measured) -> str:
    """The changed boxes with what changed most in each, those that depart most first; hidden changes are left out."""
    boxes = sorted({(box[0], box[1], box[2], box[3]) for box in crop.boxes}, key=lambda box: -crop.mean("change", box))
    parts = [(crop.change(box), box) for box in boxes]
    texts = [
        f"<|object_ref_start|>{change.capitalize()}<|object_ref_end|>{box_text(box)}"
        for change, box in parts
        if change != NOTHING
    ]
    return ", ".join(texts) if texts else "Nothing changed."


def ask_similarity(crop: Measured, rng: np.random.Generator) -> Asked:
    similarity = np.clip(1 + 4 * crop.measure("similarity", crop.whole), 1, 5)
    question = pick(
        rng,
        ("How similar is it to the clean picture, from 1 to 5?", "Give the similarity to the clean picture (1 to 5)."),
    )
    return Asked(question, f"{similarity:.2f}")


# kind of question -> how often it is asked
KINDS: dict[Callable[[Measured, np.random.Generator], Asked], float] = {
    ask_level: 0.2,
    ask_rank: 0.04,
    ask_place: 0.14,
    ask_comparison: 0.06,
    ask_change: 0.34,
    ask_changed_parts: 0.16,
    ask_similarity: 0.08,
}


def with_options(asked: Asked, rng: np.random.Generator) -> Asked:
    """The same question with two to four lettered options in random order; the answer is the letter."""
    num = int(rng.integers(2, min(4, len(asked.others) + 1) + 1))
    wrong = [asked.others[index] for index in rng.permutation(len(asked.others))[: num - 1]]
    options = [*wrong, asked.answer]
    options = [options[index] for index in rng.permutation(num)]
    listed = "\n".join(f"{LETTERS[index]}. {option}" for index, option in enumerate(options))
    request = pick(rng, OPTIONS_REQUEST)
    return Asked(f"{asked.question}\n{listed}\n{request}", LETTERS[options.index(asked.answer)])


def thought(crop: Measured, said: list[str], rng: np.random.Generator) -> str:
    """A line of what was measured of the whole picture, and a line of answers in words."""
    chosen = [list(MEASURES)[index] for index in rng.permutation(len(MEASURES))[: int(rng.integers(0, 3))]]
    words = ", ".join(f"{name} {crop.level(name, crop.whole)}" for name in chosen)
    return " ".join(f"{line[0].upper()}{line[1:]}." for line in (words, ", ".join(said)) if line)


def dialogue(crop: Measured, num_questions: int, rng: np.random.Generator) -> tuple[str, str]:
    """A user turn of numbered questions (one stands unnumbered) and the assistant's turn.

    Where the assistant reasons, it tends to say the option it chooses, and right after it the letter.
    """
    kinds, shares = list(KINDS), np.array(list(KINDS.values()))
    reasons = rng.random() < 0.8
    asked, said = [], []
    for index in rng.choice(len(kinds), size=num_questions, p=shares / shares.sum()):
        one = kinds[index](crop, rng)
        must_choose = kinds[index] is ask_comparison
        if one.others and (must_choose or rng.random() < 0.75):
            chosen = with_options(one, rng)
            if not must_choose and rng.random() < 0.95:
                said.append(f"{one.answer.lower()} {chosen.answer}")
            one = chosen
        asked.append(one)
    think = thought(crop, said, rng) if reasons else ""
    prompt = merge_prompt([one.question for one in asked])
    return prompt, assistant_turn(think, merge_answers([one.answer for one in asked]))
