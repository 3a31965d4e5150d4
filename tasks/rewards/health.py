"""Are the rewards fit to train on? The gold must score full marks, and tricks must gain nothing.

    report = health_report(samples, config.rewards)
    require_healthy(report, config.rewards)          # raises ContractError unless the failing domain is allowed by name

GLM-4.1V's lesson: one weak verifier collapses every domain, so each is checked alone. A domain is a sample's
``domain``, else its problem type. Questions are checked one by one; the pairs of a dialogue are questions too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.rewards.batch import score_batch
from tasks.rewards.constants import constant_completions
from tasks.rewards.reward import REWARDS, SampleError
from tasks.rewards.rows import id_of
from tasks.rewards.score import Score, rubric_of_sample, score
from tasks.rewards.tricks import FAMILIES, blind_tricks, completion_of, gold_tricks, word_lists

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig

FULL_MARKS = 1.0 - 1e-6
MAX_CHECKED = 100  # questions of a domain that the tricks are tried on
EXAMPLES = 3  # of failing golds a domain's report shows
TOLERATED = 0.1  # mean that a trick of `FAMILIES` may earn of a continuous reward: a judge errs now and then, ours

Sample = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------------------ gold
def gold_completion(sample: Sample, rewards: RewardsConfig) -> str:
    """The gold as the student should write it: in the frame of its rubric, with glue and structured thinking where the
    sample has them."""
    pairs = sample.get("pairs")
    pairs = [sample] if pairs is None else list(pairs)
    golds = [str(pair.get("answer") or "") for pair in pairs]
    text = golds[0] if len(golds) == 1 else "\n".join(f"{i}. {gold}" for i, gold in enumerate(golds, start=1))
    if "format_boxed" in rubric_of_sample(sample, rewards):
        text = f"<|begin_of_box|>{text}<|end_of_box|>"
    return completion_of(text, pairs[0] if len(pairs) == 1 else sample)


def gold_scores_full(sample: Sample, rewards: RewardsConfig) -> str | None:
    """None if the gold of a question or dialogue scores accuracy 1 and passes every form and gate, else why it does
    not.
    """
    try:
        scored = score(sample, gold_completion(sample, rewards), rewards)
    except SampleError as error:
        return str(error)
    if scored.accuracy < FULL_MARKS:
        return f"the gold answer scores {scored.accuracy:.3f} against itself, not 1 ({scored.reason})"
    failed = [n for n, v in scored.parts.items() if n in REWARDS and REWARDS[n].judges in ("form", "gate") and v == 0]
    return f"the gold answer in its frame scores 0 on {', '.join(failed)}" if failed else None


def gold_findings(samples: Iterable[Sample], rewards: RewardsConfig) -> list[tuple[str, str]]:
    """(id, reason) of every question or dialogue whose gold does not score full marks.

    samples: rows of the questions, annotations or dialogues; or rows of ``samples``, whose ``questions`` are checked.
    """
    findings = []
    for row in samples:
        for sample in row["questions"] if row.get("questions") is not None else [row]:
            reason = gold_scores_full(sample, rewards)
            if reason is not None:
                findings.append((str(id_of(sample) or "?"), reason))
    return findings


# ---------------------------------------------------------------------------------------------------------- report
@dataclass(frozen=True)
class DomainHealth:
    """One domain's report.

    tricks: trick -> mean accuracy. constants: constant answer -> mean accuracy, for continuous rewards; best_constant
    is the highest of them. findings: what makes the domain unfit; empty = healthy. judge: who judged, "" if nobody
    had to.
    """

    domain: str
    num_questions: int
    continuous: bool
    num_gold_failures: int
    tricks: dict[str, float]
    constants: dict[str, float]
    judge: str
    findings: tuple[str, ...]

    @property
    def best_constant(self) -> float:
        return max(self.constants.values(), default=0.0)


def questions_of(rows: Iterable[Sample]) -> Iterable[Sample]:
    """The questions of samples, annotations or dialogues. A pair inherits the dialogue's domain."""
    for row in rows:
        inner = row.get("questions") if row.get("questions") is not None else row.get("pairs")
        if inner is None:
            yield row
        else:
            for question in inner:
                yield {"domain": row.get("domain"), **question}


def health_report(samples: Iterable[Sample], rewards: RewardsConfig) -> list[DomainHealth]:
    """The report of every domain of a dataset, by name.

    On a sample of its questions, a domain is unfit if a gold does not score full marks; a blind trick or a word list
    earns more than the best constant answer (discrete rewards: anything); a gold trick passes for a discrete reward; or
    a trick of a reward's own families earns more than .1 of a continuous reward, or anything of another.
    """
    by_domain: dict[str, list[Sample]] = defaultdict(list)
    for question in questions_of(samples):
        by_domain[str(question.get("domain") or question.get("problem_type"))].append(question)
    return [_check_domain(domain, by_domain[domain], rewards) for domain in sorted(by_domain)]


def _check_domain(domain: str, questions: Sequence[Sample], rewards: RewardsConfig) -> DomainHealth:
    failures = gold_findings(questions, rewards)
    findings = []
    if failures:
        shown = "; ".join(f"{key}: {reason}" for key, reason in failures[:EXAMPLES])
        findings.append(f"{len(failures)} of {len(questions)} golds do not score full marks ({shown})")
    step = max(1, len(questions) // MAX_CHECKED)
    sound = [q for q in questions[::step] if gold_scores_full(q, rewards) is None]
    if not sound:
        return DomainHealth(
            domain, len(questions), False, len(failures), {}, {}, "", (*findings, "no gold can be scored")
        )
    named = {n for q in sound for n in rubric_of_sample(q, rewards) if n in REWARDS}
    continuous = any(REWARDS[n].continuous for n in named if REWARDS[n].judges == "answer")
    judged = any("judge" in REWARDS[n].hacks for n in named)
    lists = word_lists(sound) if judged else {}
    blind = _mean_accuracies(sound, lambda q: {**blind_tricks(q), **lists}, rewards)
    gold_bound = _mean_accuracies(sound, gold_tricks, rewards)
    completions = constant_completions(sound) if continuous else {}
    constants = _mean_accuracies(sound, lambda _: completions, rewards)
    judge = judge_named(score(sound[0], gold_completion(sound[0], rewards), rewards).reason)
    limit = max(constants.values(), default=0.0) if continuous else 0.0
    findings += [
        f"trick {name!r} earns {value:.3f}, more than the best constant's {limit:.3f}"
        for name, value in blind.items()
        if value > limit + 1e-9
    ]
    if not continuous:
        findings += [f"trick {name!r} earns {value:.3f}" for name, value in gold_bound.items() if value > 0]
    hacks: dict[str, float] = {}
    for name in sorted(named):
        tried = _mean_hacks(sound, name, rewards)
        hacks |= tried
        most = TOLERATED if REWARDS[name].continuous else 0.0
        findings += [f"trick {trick!r} earns {value:.3f}" for trick, value in tried.items() if value > most]
    tricks = {**blind, **gold_bound, **hacks}
    return DomainHealth(domain, len(questions), continuous, len(failures), tricks, constants, judge, tuple(findings))


def _scored(
    questions: Sequence[Sample], tricks: Callable[[Sample], Mapping[str, str]], rewards: RewardsConfig
) -> dict[str, list[Score]]:
    """The scores that each trick earns, on the questions that it is made for."""
    named = [tricks(question) for question in questions]
    scores = score_batch(questions, [list(of_one.values()) for of_one in named], rewards)
    found: dict[str, list[Score]] = defaultdict(list)
    for of_one, earned in zip(named, scores, strict=True):
        for name, scored in zip(of_one, earned, strict=True):
            found[name].append(scored)
    return found


def _mean_accuracies(
    questions: Sequence[Sample], tricks: Callable[[Sample], Mapping[str, str]], rewards: RewardsConfig
) -> dict[str, float]:
    scored = _scored(questions, tricks, rewards)
    return {name: sum(s.accuracy for s in scores) / len(scores) for name, scores in scored.items()}


def _mean_hacks(questions: Sequence[Sample], reward: str, rewards: RewardsConfig) -> dict[str, float]:
    """What the tricks of a reward's families earn of this reward alone."""
    asked = [question for question in questions if reward in rubric_of_sample(question, rewards)]
    means = {}
    for family in REWARDS[reward].hacks:
        for name, scores in _scored(asked, FAMILIES[family], rewards).items():
            means[f"{name} ({reward})"] = sum(s.parts[reward] or 0.0 for s in scores) / len(scores)
    return means


def judge_named(reason: str) -> str:
    """The judge that a score's reason names, or ""."""
    return reason.partition("judge: ")[2].partition(";")[0].strip()


def require_healthy(report: Sequence[DomainHealth], rewards: RewardsConfig) -> None:
    """Raise ContractError naming every failing domain that ``rewards.allow_unhealthy`` does not."""
    from data_contracts.check import ContractError

    failing = [d for d in report if d.findings and d.domain not in rewards.allow_unhealthy]
    if failing:
        lines = "\n".join(f"  {d.domain}: {'; '.join(d.findings)}" for d in failing)
        raise ContractError(
            f"rewards of {len(failing)} domain(s) are unfit to train on:\n{lines}\n"
            "Mend the golds or the rubric, or name the domain in rewards.allow_unhealthy."
        )
