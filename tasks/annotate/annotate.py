"""Ask the teacher about every training question, keep the reasoning that agrees with the gold.

    annotated = asyncio.run(annotate_samples(samples.path, home() / "journal", config.annotate, config.rewards))

Questions of the test split pass through unasked. A question whose gold cannot score full marks against itself is put
aside before anyone is asked. One without gold is asked every try, and takes the answer that most of them agree on.
Questions are asked many at a time, yet rows come out in the order of the samples, and at most a window of them is in
memory. Video-R1 samples a chain of thought once and keeps it if its reward exceeds .6; the further tries, agreement,
and what becomes of rejected questions, are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.check import ContractError
from data_contracts.records import ANNOTATIONS, QUESTION
from pipeline_config.schema import AnnotateConfig, MeasuredTeacher, OpenAITeacher, RewardsConfig
from tasks.annotate.teacher import SAMPLE_FIELDS, Row, Teacher, TeacherAnswer, read_reply
from tasks.annotate.verify import Verdict, agree, verify
from tasks.endpoint.journal import Journalled, open_journal
from tasks.endpoint.request import NotAsked, Reply, Request, Unanswered
from tasks.rewards.health import gold_scores_full

SAMPLES_READ_AT_ONCE = 64
ROWS_PER_BATCH = 2_000

Around = Callable[[], AbstractAsyncContextManager[Any]]
Replied = Callable[[Request, Reply, float], None]  # what was asked, what came, seconds
Progress = Callable[..., None]  # (questions done, questions in all, **figures), as `Stage.progress`


@dataclass
class Annotated:
    """table: rows of ANNOTATIONS. quarantine: questions put aside: id, reason, what the teacher answered.

    figures: questions asked, accepted, rejected, not asked, with unfit gold; tries, tokens and cost of all that were
    asked, rejected ones included; asked and accepted share by problem type; and of this run alone: ``teacher_calls``,
    ``journal_hits``, ``spent``. not_asked: why the first of the questions that were not asked was not, if any was.
    """

    table: pa.Table
    quarantine: list[dict[str, Any]]
    figures: dict[str, float]
    not_asked: str | None = None


@dataclass
class _Tries:
    """The tries at one question so far. The best is the accepted one, else the one of highest reward, the earliest.

    agreed: the answer that stands for a gold where there is none.
    """

    answers: list[TeacherAnswer] = field(default_factory=list)
    best: TeacherAnswer | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict(False, -1.0, "never asked"))
    agreed: str | None = None

    def add(self, tried: TeacherAnswer, verdict: Verdict) -> None:
        self.answers.append(tried)
        if verdict.accepted or verdict.reward > self.verdict.reward:
            self.best, self.verdict = tried, verdict

    def totals(self) -> dict[str, float]:
        summed = ("prompt_tokens", "completion_tokens", "cost")
        return {"tries": len(self.answers)} | {n: sum(getattr(a, n) for a in self.answers) for n in summed}


@dataclass
class _Outcome:
    """Of one question: its row, or None where it is left out; why it stands in quarantine, if it does."""

    problem_type: str
    row: dict[str, Any] | None
    quarantine: dict[str, Any] | None = None
    tries: _Tries | None = None
    unfit: bool = False
    not_asked: str | None = None


class _Annotator:
    def __init__(self, config: AnnotateConfig, rewards: RewardsConfig, teacher: Teacher, journal: Journalled) -> None:
        self._config = config
        self._rewards = rewards
        self._teacher = teacher
        self._journal = journal

    async def outcome(self, question: Row, sample: Row) -> _Outcome:
        row = {
            **{name: question[name] for name in QUESTION.names},
            **{name: sample[name] for name in ("sample_id", "media_path", "source_photograph", "split")},
            **dict.fromkeys(("reasoning", "reward", "request_key")),
            **dict.fromkeys(("tries", "prompt_tokens", "completion_tokens"), 0),
            **{"teacher": self._teacher.name, "cost": 0.0},
        }
        problem_type = str(question["problem_type"])
        trained = sample["split"] == "train"
        has_gold = question["answer"] is not None
        reason = gold_scores_full(question, self._rewards) if has_gold else None if trained else "there is none"
        if reason is not None:
            return _Outcome(problem_type, None, _put_aside(question, sample, f"unfit gold: {reason}", []), unfit=True)
        if not trained:
            return _Outcome(problem_type, row)
        tries = _Tries()
        try:
            await (self._try if has_gold else self._agree)(question, sample, tries)
        except NotAsked as stopped:
            aside = _put_aside(question, sample, f"not asked: {stopped}", tries.answers)
            return _Outcome(problem_type, None, aside, tries, not_asked=str(stopped))
        except Unanswered as failed:
            tries.verdict = Verdict(False, max(0.0, tries.verdict.reward), f"no answer: {failed}")
        row |= {"reward": tries.verdict.reward, **tries.totals()}
        if tries.agreed is not None:
            row["answer"] = tries.agreed
        if tries.verdict.accepted and tries.best is not None:
            row |= {"reasoning": tries.best.reasoning, "request_key": tries.best.request_key}
            return _Outcome(problem_type, row, tries=tries)
        kept = self._config.rejected == "answer_only" and has_gold
        becomes = "kept without reasoning" if kept else "left out"
        reason = f"{becomes}: every try rejected, the best: {tries.verdict.reason}"
        quarantine = _put_aside(question, sample, reason, tries.answers)
        return _Outcome(problem_type, row if kept else None, quarantine, tries=tries)

    async def _try(self, question: Row, sample: Row, tries: _Tries) -> None:
        """Try until one is right."""
        for attempt in range(1, self._config.tries + 1):
            tried = await self._ask(question, sample, attempt)
            tries.add(tried, verify(question, tried, self._rewards, self._config.tau))
            if tries.verdict.accepted:
                break

    async def _agree(self, question: Row, sample: Row, tries: _Tries) -> None:
        """Try every time; what more than `agreement` of the tries say is the answer."""
        for attempt in range(1, self._config.tries + 1):
            tries.answers.append(await self._ask(question, sample, attempt))
        place, share = agree(question, tries.answers, self._rewards, self._config.tau)
        accepted = place >= 0 and len(tries.answers) > 1 and share > self._config.agreement
        tries.verdict = Verdict(accepted, share, f"no gold, and {share:.0%} of {len(tries.answers)} tries agree")
        if accepted:
            tries.best, tries.agreed = tries.answers[place], tries.answers[place].answer

    async def _ask(self, question: Row, sample: Row, attempt: int) -> TeacherAnswer:
        shown = {name: question[name] for name in self._teacher.shown}
        of_sample = {name: sample[name] for name in SAMPLE_FIELDS}
        request = self._teacher.request(shown, of_sample, attempt)
        reply = await self._journal.reply(
            request, lambda: self._teacher.ask(request, shown, of_sample), self._teacher.found
        )
        return read_reply(request.key, reply)


def _put_aside(question: Row, sample: Row, reason: str, answers: list[TeacherAnswer]) -> dict[str, Any]:
    return {
        "id": question["question_id"],
        "reason": reason,
        "sample_id": sample["sample_id"],
        "problem_type": question["problem_type"],
        "question": question["question"],
        "gold": question["answer"],
        "answers": [tried.refusal or tried.answer or "" for tried in answers],
        "request_keys": [tried.request_key for tried in answers],
    }


def make_teacher(
    settings: MeasuredTeacher | OpenAITeacher,
    api_key: str = "",
    around: Around = contextlib.nullcontext,
    on_reply: Replied = lambda request, reply, seconds: None,
) -> Teacher:
    """The teacher that the config names; the rest as of `Endpoint`, not used otherwise."""
    if isinstance(settings, MeasuredTeacher):
        from tasks.annotate.measured import PictureMeasurer

        return PictureMeasurer()
    from tasks.annotate.openai_teacher import EndpointTeacher

    if settings.batch_folder is not None:
        from tasks.endpoint.offline import BatchFolder

        return EndpointTeacher(settings, BatchFolder(settings, settings.batch_folder))
    from tasks.endpoint.budget import Budget
    from tasks.endpoint.client import Endpoint

    endpoint = Endpoint(
        settings,
        api_key,
        section="annotate.teacher",
        budget=Budget(settings.budget),
        around=around,
        on_reply=on_reply,
    )
    return EndpointTeacher(settings, endpoint)


async def annotate_samples(
    samples: Path,
    journal_folder: Path,
    config: AnnotateConfig,
    rewards: RewardsConfig,
    teacher: Teacher | None = None,
    on_progress: Progress = lambda done, total, **figures: None,
) -> Annotated:
    """Annotations of a Parquet file of samples through the journal, by a teacher, or the one that the config names.

    Raises ContractError if no question is fit, or the teacher was right on none; ConfigError, EndpointUnavailable,
    JournalDamaged, DiskFull.
    """
    teacher = teacher or make_teacher(config.teacher)
    with open_journal(journal_folder) as journal:
        journalled = Journalled(journal, teacher.max_in_flight)
        try:
            annotated = await _annotate(samples, config, rewards, teacher, journalled, on_progress)
        finally:
            await teacher.close()
    annotated.figures |= {
        "teacher_calls": journalled.num_calls,
        "journal_hits": journalled.num_hits,
        "spent": journalled.cost,
    }
    return annotated


async def _annotate(
    samples: Path,
    config: AnnotateConfig,
    rewards: RewardsConfig,
    teacher: Teacher,
    journal: Journalled,
    on_progress: Progress,
) -> Annotated:
    total = _count_questions(samples)
    batches: list[pa.RecordBatch] = []
    rows: list[dict[str, Any]] = []
    quarantine: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    not_asked: str | None = None
    annotator = _Annotator(config, rewards, teacher, journal)
    window = 4 * teacher.max_in_flight
    async for outcome in _in_order(annotator, _questions(samples), window):
        _count(outcome, counts)
        not_asked = not_asked or outcome.not_asked
        if outcome.quarantine is not None:
            quarantine.append(outcome.quarantine)
        if outcome.row is not None:
            rows.append(outcome.row)
        if len(rows) == ROWS_PER_BATCH:
            batches.append(pa.RecordBatch.from_pylist(rows, schema=ANNOTATIONS))
            rows = []
        on_progress(counts["questions"], total, accepted=_share(counts, "accepted", "asked"), cost=counts["cost"])
    batches.append(pa.RecordBatch.from_pylist(rows, schema=ANNOTATIONS))
    table = pa.Table.from_batches(batches, ANNOTATIONS)
    if not_asked is None:
        _refuse_empty(counts, quarantine, config)
    return Annotated(table, quarantine, _figures(counts), not_asked)


def _questions(samples: Path) -> Iterator[tuple[Row, Row]]:
    for batch in pq.ParquetFile(samples).iter_batches(SAMPLES_READ_AT_ONCE):
        for sample in batch.to_pylist():
            for question in sample["questions"] or []:
                yield question, sample


async def _in_order(
    annotator: _Annotator, questions: Iterator[tuple[Row, Row]], window: int
) -> AsyncIterator[_Outcome]:
    """Outcomes in the order of the questions, at most `window` of them under way; if one fails, the others end."""
    under_way: deque[asyncio.Task[_Outcome]] = deque()
    try:
        for question, sample in questions:
            under_way.append(asyncio.create_task(annotator.outcome(question, sample)))
            while len(under_way) >= window or (under_way and under_way[0].done()):
                yield await _oldest(under_way)
        while under_way:
            yield await _oldest(under_way)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _oldest(under_way: deque[asyncio.Task[_Outcome]]) -> _Outcome:
    """Wait for the first and take it out. Cancelled, it leaves the first to be ended with the others: ended before
    them, it would free the place of a request, and one more would be sent and lost."""
    await asyncio.wait([under_way[0]])
    return under_way.popleft().result()


def _count_questions(samples: Path) -> int:
    with duckdb.connect() as connection:
        query = connection.execute("SELECT sum(len(questions)) FROM read_parquet(?)", [str(samples)])
        return int(query.fetchall()[0][0] or 0)


def _count(outcome: _Outcome, counts: Counter[str]) -> None:
    counts["questions"] += 1
    counts["unfit_gold"] += outcome.unfit
    counts["not_asked"] += outcome.not_asked is not None
    if outcome.tries is not None:
        counts.update(outcome.tries.totals())
    if outcome.tries is not None and outcome.not_asked is None:
        accepted = outcome.tries.verdict.accepted
        counts["asked"] += 1
        counts["accepted"] += accepted
        counts[f"asked_{outcome.problem_type}"] += 1
        counts[f"accepted_{outcome.problem_type}"] += accepted


def _share(counts: Counter[str], part: str, whole: str) -> float:
    return counts[part] / counts[whole] if counts[whole] else 0.0


def _figures(counts: Counter[str]) -> dict[str, float]:
    by_type: dict[str, float] = {}
    for name in sorted(name.removeprefix("asked_") for name in counts if name.startswith("asked_")):
        by_type[f"asked_{name}"] = counts[f"asked_{name}"]
        by_type[f"accepted_share_{name}"] = _share(counts, f"accepted_{name}", f"asked_{name}")
    return {
        "asked": counts["asked"],
        "accepted": counts["accepted"],
        "rejected": counts["asked"] - counts["accepted"],
        "not_asked": counts["not_asked"],
        "unfit_gold": counts["unfit_gold"],
        **{name: float(counts[name]) for name in ("tries", "prompt_tokens", "completion_tokens", "cost")},
        **by_type,
    }


def _refuse_empty(counts: Counter[str], quarantine: list[dict[str, Any]], config: AnnotateConfig) -> None:
    first = f"; the first, question {quarantine[0]['id']}: {quarantine[0]['reason']}" if quarantine else ""
    if counts["questions"] == 0:
        raise ContractError("annotate: the samples hold no questions; check ingest.questions in the config")
    if counts["unfit_gold"] == counts["questions"]:
        raise ContractError(
            f"annotate: no gold answer of {counts['questions']} questions can score full marks against itself{first}"
        )
    if counts["asked"] and not counts["accepted"] and config.rejected == "drop":
        raise ContractError(
            f"annotate: the teacher was right on none of {counts['asked']} training questions{first}; take a better "
            "teacher, more annotate.tries, a lower annotate.tau, or annotate.rejected: answer_only"
        )
