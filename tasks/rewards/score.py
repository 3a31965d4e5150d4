"""The one entry point that mining, GRPO, evaluation and the teacher's check call: sample and completion in, score out.

    sample = {"problem_type": "choice", "options": [..], "answer": "B"}
    score(sample, "<think>..</think><answer>B</answer>", RewardsConfig()).accuracy

The rubric is chosen per SAMPLE by its problem type (released code of peers scores a batch by its first sample's type).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.rewards import (  # noqa: F401  they enter their rewards into the table
    caption,
    choice,
    detection,
    format,
    gates,
    group,
    numeric,
    quality,
    temporal,
    text,
)
from tasks.rewards.answers.turn import Turn, read_turn, split_numbered
from tasks.rewards.reward import REWARDS, Item, Noted, Outcome, SampleError, Unread

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig


MAX_SHOWN = 60  # characters of an answer in a reason


@dataclass(frozen=True)
class Score:
    """What a completion earned.

    total: weighted sum, by the rubric, of the parts that apply; 0 if a gate failed. parts: value of every named
    reward of the rubric, None where it does not apply, and always ``accuracy``. accuracy: in [0, 1], weighted mean of
    the rubric's rewards that judge the answer; for a dialogue the mean over its pairs (n_correct / n for choices).
    pair_accuracy, pair_answers: per pair, in order; one of each for a single question. reason: one
    line for people: who judged, and why what is below 1 is; "read" if there is nothing to say.
    """

    total: float
    parts: dict[str, float | None]
    reason: str
    accuracy: float
    pair_accuracy: tuple[float, ...]
    pair_answers: tuple[str | None, ...]


def score(sample: Mapping[str, Any], completion: str, rewards: RewardsConfig, *, truncated: bool = False) -> Score:
    """Score one completion of a question or of a merged dialogue.

    sample: question-like (``problem_type``, ``question``, ``options``, ``answer``, what its rewards need beside) or a
    dialogue (``pairs``: list of questions; ``answer`` fields are matched by their number). truncated: the completion
    was cut at its token limit; without a readable answer field its accuracy is ``rewards.truncated``.

    Raises SampleError (a ValueError) on a malformed sample or rubric; never on a completion.
    """
    turn = read_turn(completion, rewards.untagged)
    pairs = sample.get("pairs")
    pairs = None if pairs is None else list(pairs)
    if pairs is not None and len(pairs) != 1:
        return _score_dialogue(sample, pairs, turn, rewards, truncated)
    question = {**sample, **pairs[0]} if pairs else sample
    answer = _single_answer(question, turn)
    rubric = rubric_of(question, rewards)
    cut = truncated and answer is None
    parts, accuracy, why = _score_question(question, answer, turn, rewards, rubric, cut)
    return Score(total_of(parts, rubric), parts, _reason(why, cut), accuracy, (accuracy,), (answer,))


def _single_answer(question: Mapping[str, Any], turn: Turn) -> str | None:
    """The answer field without its list number "1.", which belongs to the answer where the gold begins with one too."""
    gold = str(question.get("answer") or "").strip()
    if turn.answer is None or split_numbered(gold, 1) != [gold]:
        return turn.answer
    return split_numbered(turn.answer, 1)[0]


def _score_dialogue(
    sample: Mapping[str, Any], pairs: list[Any], turn: Turn, rewards: RewardsConfig, truncated: bool
) -> Score:
    if not pairs:
        raise SampleError("field 'pairs': a dialogue needs at least one question with its answer")
    cut = truncated and turn.answer is None
    answers: list[str | None] = [None] * len(pairs) if turn.answer is None else split_numbered(turn.answer, len(pairs))
    accuracies, whys = [], []
    for number, (pair, answer) in enumerate(zip(pairs, answers, strict=True), start=1):
        question = {"domain": sample.get("domain"), **pair}
        judging = {n: w for n, w in rubric_of(question, rewards).items() if n == "accuracy" or _judges_answer(n)}
        _, accuracy, why = _score_question(question, answer, turn, rewards, judging, cut)
        accuracies.append(accuracy)
        whys += [f"{number}: {why}"] if why else []
    accuracy = sum(accuracies) / len(accuracies)
    rubric = _rubric("dialogue", rewards)
    parts: dict[str, float | None] = {"accuracy": accuracy}
    whole = Item(_as_one_question(pairs), turn.answer, turn, rewards)
    for name in rubric:
        if name != "accuracy":
            outcome = REWARDS[name].function(whole)
            parts[name] = outcome if isinstance(outcome, float) else None
    reason = _reason("; ".join(whys), cut)
    return Score(total_of(parts, rubric), parts, reason, accuracy, tuple(accuracies), tuple(answers))


def _judges_answer(name: str) -> bool:
    return REWARDS[name].judges == "answer"


def _as_one_question(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rewards of the frame see of a dialogue: its questions and golds as one text each, and all options."""
    joined = {key: "\n".join(str(pair.get(key) or "") for pair in pairs) for key in ("question", "answer")}
    options = [option for pair in pairs if pair.get("options") is not None for option in pair["options"]]
    return {"problem_type": "dialogue", "options": options, **joined}


def _score_question(
    question: Mapping[str, Any],
    answer: str | None,
    turn: Turn,
    rewards: RewardsConfig,
    rubric: Mapping[str, float],
    cut: bool,
) -> tuple[dict[str, float | None], float, str]:
    """Parts, accuracy and reason of one question under one rubric."""
    parts: dict[str, float | None] = {}
    whys = []
    item = Item(question, answer, turn, rewards)
    for name in rubric:
        if name == "accuracy":
            continue
        outcome: Outcome = REWARDS[name].function(item)
        if REWARDS[name].judges == "answer" and cut and outcome is not None:
            outcome = rewards.truncated
        if isinstance(outcome, Noted):
            whys.append(outcome.note)
            outcome = outcome.value
        elif isinstance(outcome, Unread):
            whys.append(f"{name}: {outcome.why if answer is not None else 'no answer'}")
            outcome = rewards.unparseable
        elif outcome is not None and outcome < 1 and REWARDS[name].judges != "group":
            whys.append(_why_wrong(item, name, outcome))
        parts[name] = outcome
    judged = [
        (parts[n] or 0.0, w) for n, w in rubric.items() if n in parts and _judges_answer(n) and parts[n] is not None
    ]
    weight = sum(w for _, w in judged)
    accuracy = sum(value * w for value, w in judged) / weight if weight > 0 else 0.0
    parts["accuracy"] = accuracy
    return parts, accuracy, "; ".join(whys)


def total_of(parts: Mapping[str, float | None], rubric: Mapping[str, float]) -> float:
    """Weighted sum of the parts that apply; 0 if a gate among them is 0."""
    total = 0.0
    for name, weight in rubric.items():
        value = parts.get(name)
        if value is None:
            continue
        if name != "accuracy" and REWARDS[name].judges == "gate":
            if value == 0:
                return 0.0
            continue
        total += weight * value
    return total


def _why_wrong(item: Item, name: str, value: float) -> str:
    """What the answer says instead of the gold, or what the frame or the gate asks for."""
    if REWARDS[name].judges == "answer":
        return f"{name} {value:.3g}: {_shown(item.answer)}, the gold is {_shown(item.sample.get('answer'))}"
    return f"{name} {value:.3g}: {REWARDS[name].formula}"


def _shown(value: Any) -> str:
    line = " ".join(str(value).split())
    return repr(line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]} ..")


def _reason(why: str, cut: bool) -> str:
    return "cut at the token limit without an answer" if cut else why or "read"


def rubric_of_sample(sample: Mapping[str, Any], rewards: RewardsConfig) -> Mapping[str, float]:
    """The rubric that `score` uses for a sample: a dialogue of several pairs has its own, one pair has its
    question's.
    """
    pairs = sample.get("pairs")
    pairs = None if pairs is None else list(pairs)
    if pairs is not None and len(pairs) != 1:
        return _rubric("dialogue", rewards)
    return rubric_of({**sample, **pairs[0]} if pairs else sample, rewards)


def rubric_of(question: Mapping[str, Any], rewards: RewardsConfig) -> Mapping[str, float]:
    """The rubric of a question: that of ``domain/problem_type`` if there is one, else of ``problem_type``."""
    problem_type = question.get("problem_type")
    if not isinstance(problem_type, str):
        raise SampleError(
            f"field 'problem_type': is {problem_type!r}; it names the rubric in the config's rewards.rubrics"
        )
    key = f"{question.get('domain')}/{problem_type}"
    return _rubric(key if key in rewards.rubrics else problem_type, rewards)


def _rubric(key: str, rewards: RewardsConfig) -> Mapping[str, float]:
    rubric = rewards.rubrics.get(key)
    if rubric is None:
        raise SampleError(f"field 'problem_type': no rubric for {key!r}; rewards.rubrics has {sorted(rewards.rubrics)}")
    unknown = [name for name in rubric if name != "accuracy" and name not in REWARDS]
    if unknown:
        raise SampleError(f"rewards.rubrics.{key}: no reward named {unknown[0]!r}; there are {sorted(REWARDS)}")
    return rubric
