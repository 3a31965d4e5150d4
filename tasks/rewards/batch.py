"""A batch of groups at once: what one answer earns, plus what it earns beside the others.

scores = score_batch(samples, completions, rewards, num_tokens=.., shuffled=..)      # [prompt][rollout] -> Score
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.rewards.answers.numbers import read_number
from tasks.rewards.group import length_bonuses, order_bonuses, ranking_rewards
from tasks.rewards.reward import SampleError
from tasks.rewards.score import Score, rubric_of_sample, score, total_of

if TYPE_CHECKING:
    from pipeline_config.schema import RewardsConfig


def score_batch(
    samples: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[str]],
    rewards: RewardsConfig,
    *,
    truncated: Sequence[Sequence[bool]] | None = None,
    num_tokens: Sequence[Sequence[int]] | None = None,
    shuffled: Sequence[Sequence[str] | None] | None = None,
) -> list[list[Score]]:
    """Scores of a batch, [prompt][rollout], group rewards included.

    shuffled: per prompt the completions on shuffled frames, None for a picture. A judge over the network is asked for
    the whole batch in parallel. Raises as `score` does.
    """
    cut = truncated or [[False] * len(group) for group in completions]
    extra = [list(group or ()) for group in shuffled] if shuffled else [[] for _ in samples]
    jobs = [
        (s, c, t)
        for s, group, ts in zip(samples, completions, cut, strict=True)
        for c, t in zip(group, ts, strict=True)
    ]
    jobs += [(s, c, False) for s, group in zip(samples, extra, strict=True) for c in group]
    if rewards.judge.kind == "openai":
        with ThreadPoolExecutor(rewards.judge.max_in_flight, "score") as pool:
            flat = list(pool.map(lambda job: score(job[0], job[1], rewards, truncated=job[2]), jobs))
    else:
        flat = [score(s, c, rewards, truncated=t) for s, c, t in jobs]
    position = iter(flat)
    scores = [[next(position) for _ in group] for group in completions]
    on_shuffled = [[next(position).accuracy for _ in group] for group in extra]
    return with_group_rewards(samples, scores, rewards, num_tokens=num_tokens, on_shuffled=on_shuffled)


def with_group_rewards(
    samples: Sequence[Mapping[str, Any]],
    scores: Sequence[Sequence[Score]],
    rewards: RewardsConfig,
    *,
    num_tokens: Sequence[Sequence[int] | None] | None = None,
    on_shuffled: Sequence[Sequence[float]] | None = None,
) -> list[list[Score]]:
    """Scores [prompt][rollout] with what their rubrics' group rewards add.

    num_tokens: of each rollout; None for a prompt, or for all: no length bonus. on_shuffled: accuracies on shuffled
    frames; none for a prompt: no order bonus. Raises SampleError if a prompt to rank by has no opinion score.
    """
    ranking = _rank_batch(samples, scores, rewards)
    earned: list[list[Score]] = []
    for i, sample in enumerate(samples):
        rubric = rubric_of_sample(sample, rewards)
        accuracies = [s.accuracy for s in scores[i]]
        group: dict[str, Sequence[float | None]] = {}
        if "length_bonus" in rubric and num_tokens is not None and (lengths := num_tokens[i]) is not None:
            group["length_bonus"] = length_bonuses(accuracies, lengths, rewards)
        if "order_bonus" in rubric and on_shuffled is not None and on_shuffled[i]:
            group["order_bonus"] = order_bonuses(accuracies, on_shuffled[i], rewards)
        if "mos_ranking" in rubric:
            group["mos_ranking"] = ranking[i]
        parts = [{name: values[k] for name, values in group.items()} for k in range(len(scores[i]))]
        earned.append([_with_parts(s, p, rubric) if p else s for s, p in zip(scores[i], parts, strict=True)])
    return earned


def _with_parts(scored: Score, parts: Mapping[str, float | None], rubric: Mapping[str, float]) -> Score:
    merged = {**scored.parts, **parts}
    return replace(scored, parts=merged, total=total_of(merged, rubric))


def _rank_batch(
    samples: Sequence[Mapping[str, Any]], scores: Sequence[Sequence[Score]], rewards: RewardsConfig
) -> dict[int, list[float | None]]:
    """Ranking rewards of the prompts whose rubric names them, by position in the batch."""
    ranked = [i for i, sample in enumerate(samples) if "mos_ranking" in rubric_of_sample(sample, rewards)]
    golds = [read_number(str((samples[i].get("pairs") or [samples[i]])[0].get("answer"))) for i in ranked]
    missing = [i for i, gold in zip(ranked, golds, strict=True) if gold is None]
    if missing:
        raise SampleError(f"field 'answer': sample {missing[0]} of the batch has no opinion score to rank by")
    found = [[_within_scale(read_number(s.pair_answers[0])) for s in scores[i]] for i in ranked]
    return dict(zip(ranked, ranking_rewards(found, [g for g in golds if g is not None]), strict=True))


def _within_scale(predicted: float | None) -> float | None:
    """A predicted score, cut to the widest scale in use: one absurd number must not swamp the variances."""
    return None if predicted is None else min(100.0, max(0.0, predicted))
