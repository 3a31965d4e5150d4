"""What a run would do, and what stands in its way, before anything is spent: ``--dry-run``.

    python -m flows.full_pipeline --config pipeline_config/qwen2_5_vl_7b.yaml --dry-run

Checks the configuration, that every input, checkpoint, key and DeepSpeed file is there, that the student's stages can
start with such settings on this machine, and that gold answers drawn from the data score full marks; prints the stages
with their sizes and the memory per device. Loads no weights, asks no teacher, writes nothing under the home.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data_contracts.check import ContractError
from pipeline_config.schema import ConfigError, OpenAITeacher, PipelineConfig
from tasks.student.duration import Sizes, combined, expected_seconds, in_words, vision_tokens
from tasks.student.precision import choice_for, settled
from tasks.student.startable import (
    attention_refusals,
    deepspeed_refusals,
    device_refusals,
    reference_refusals,
    share_refusals,
)

SAMPLED_FILES = 24  # of each source: read, expanded into questions, their gold scored


@dataclass
class Plan:
    """findings: one sentence each, with its cure; the plan can be run if there are none. notes do not stand in its way.

    num_samples, num_questions, num_asked, prompt_tokens: expected of the whole run, from what the sampled files gave;
    num_asked: questions of the training split; prompt_tokens: of one try at each of them; sizes: of each source's
    dialogues. seconds: of the stages that run the student, on this machine. features_gigabytes: what the features of
    all training pictures take on disk.
    """

    config: PipelineConfig
    precision: str = ""
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_files: int = 0
    num_samples: float = 0.0
    num_questions: float = 0.0
    num_asked: float = 0.0
    prompt_tokens: float = 0.0
    sizes: list[Sizes] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    features_gigabytes: float = 0.0


def make_plan(config: PipelineConfig) -> Plan:
    """Check everything a run needs; what is missing is a finding, never an exception."""
    with tempfile.TemporaryDirectory() as folder:
        config, precision = settled(config, Path(folder))
        machine = choice_for(Path(folder))
    plan = Plan(config, precision)
    if config.student.devices > 1 and not machine.num_gpus:
        plan.notes.append(
            f"student.devices: this machine has no GPU; here {config.student.devices} processes share its processor. "
            "Whether there is a GPU for each is checked where the plan is made on the machine that is to run it"
        )
    _check_sources(plan)
    plan.findings += [*_teacher_findings(config), *_student_findings(config), *_deepspeed_findings(config)]
    try:
        plan.findings += _start_findings(config, machine.num_gpus)
        from tasks.student.memory import estimate_memory, features_gigabytes, model_shape

        plan.memory = estimate_memory(config)
        num_tokens = sum(part.num_pictures * part.vision for part in plan.sizes)
        plan.features_gigabytes = features_gigabytes(config, model_shape(config), num_tokens)
        if plan.sizes:
            plan.seconds = expected_seconds(config, model_shape(config), combined(plan.sizes), machine.operations)
    except ConfigError as error:
        plan.findings.append(str(error))
    plan.findings = list(dict.fromkeys(plan.findings))
    return plan


def _check_sources(plan: Plan) -> None:
    from tasks.ingest.sources import open_sources
    from tasks.media.probe import Limits

    ingest = plan.config.ingest
    limits = Limits(ingest.max_file_megabytes, ingest.max_megapixels)
    for source in open_sources(ingest, plan.config.seed):
        missing = [f"{source.name}: {finding}" for finding in source.findings()]
        plan.findings += missing
        if missing:
            continue
        try:
            _check_source(plan, source, limits)
        except (ConfigError, ContractError) as error:
            plan.findings.append(f"{source.name}: {error}")


def _check_source(plan: Plan, source: Any, limits: Any) -> None:
    """Read a source's files; score the gold of the questions of the first of them."""
    from tasks.ingest.questions import expand
    from tasks.ingest.sources.protocol import Quarantined
    from tasks.rewards.health import gold_findings

    found = list(source.read(limits))
    items = [item for item in found if not isinstance(item, Quarantined)]
    plan.num_files += len(items)
    for left_out in (item.to_row() for item in found if isinstance(item, Quarantined)):
        plan.findings.append(f"{source.name}: {left_out['id']}: {left_out['field']}: {left_out['reason']}")
    sampled: list[tuple[Any, list[dict[str, Any]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for item in items[:SAMPLED_FILES]:
            for sample in islice(source.expand(item, "train", Path(folder)), 2):
                questions = expand(sample, plan.config.ingest.questions, plan.config.seed)
                sampled.append((sample, questions))
                for identity, reason in gold_findings(questions, plan.config.rewards):
                    plan.findings.append(f"{source.name}: {sample.source_file}: question {identity}: {reason}")
    if sampled:
        _expect(plan, source, items, sampled)


def _expect(plan: Plan, source: Any, items: list[Any], sampled: list[tuple[Any, list[dict[str, Any]]]]) -> None:
    """Add what a source will give: its samples, their questions, and what the teacher is asked."""
    split_share = {"train": 1 - plan.config.ingest.test_share, "test": plan.config.ingest.test_share}
    samples = {
        split: sum(share if item.split is None else item.split == split for item in items)
        * source.samples_per_item(split)
        for split, share in split_share.items()
    }
    per_sample = sum(len(questions) for _, questions in sampled) / len(sampled)
    plan.num_samples += sum(samples.values())
    plan.num_questions += sum(samples.values()) * per_sample
    plan.num_asked += samples["train"] * per_sample
    plan.sizes.append(_sizes(plan.config, samples, sampled))
    teacher = plan.config.annotate.teacher
    if isinstance(teacher, OpenAITeacher):
        from tasks.annotate.openai_teacher import prompt_tokens

        shown = [
            ({"sample_id": "", "width": sample.probed.width, "height": sample.probed.height}, question)
            for sample, questions in sampled
            for question in questions
        ]
        tokens = sum(prompt_tokens(teacher, question, sample) for sample, question in shown)
        plan.prompt_tokens += samples["train"] * tokens / len(sampled)


def _sizes(
    config: PipelineConfig, samples: Mapping[str, float], sampled: list[tuple[Any, list[dict[str, Any]]]]
) -> Sizes:
    """Of the dialogues that so many samples of each split will give, if all are like those sampled."""
    compress = config.compress
    by_sample = [Counter(question["sub_task"] for question in questions) for _, questions in sampled]

    def dialogues(counts: Counter[str]) -> dict[str, int]:
        if compress.merge_by is None:
            return dict(counts)
        if "sub_task" not in compress.merge_by:
            return {"mixed": math.ceil(sum(counts.values()) / compress.max_pairs)}
        return {name: math.ceil(count / compress.max_pairs) for name, count in counts.items()}

    per_sample = [dialogues(counts) for counts in by_sample]
    num_dialogues = sum(sum(counts.values()) for counts in per_sample) / len(sampled)
    seen = sum(config.sft.repeats.get(name, 1) * count for counts in per_sample for name, count in counts.items())
    questions = [question for _, questions in sampled for question in questions]
    num_merged = max(1.0, num_dialogues * len(sampled))

    def tokens(*columns: str) -> float:
        characters = sum(len(str(question.get(column) or "")) for question in questions for column in columns)
        return characters / compress.characters_per_token / num_merged

    return Sizes(
        num_train=samples["train"] * num_dialogues,
        num_test=samples["test"] * num_dialogues,
        num_pictures=samples["train"],
        seen=samples["train"] * seen / len(sampled),
        vision=sum(vision_tokens(s.probed.width, s.probed.height, config) for s, _ in sampled) / len(sampled),
        prompt=tokens("question", "options"),
        response=tokens("answer") + compress.max_think_tokens,
    )


def _teacher_findings(config: PipelineConfig) -> Iterator[str]:
    teacher = config.annotate.teacher
    if not isinstance(teacher, OpenAITeacher):
        return
    try:
        _check_templates(teacher)
    except ConfigError as error:
        yield str(error)
    if teacher.batch_folder is not None or os.environ.get(teacher.api_key_variable):
        return
    if os.environ.get("PREFECT_API_URL"):
        from tasks.annotate.task import api_key

        try:
            api_key(teacher.api_key_variable)
        except ConfigError as error:
            yield str(error)
        return
    yield (
        f"annotate.teacher.api_key_variable: {teacher.api_key_variable} is not set; export it, or keep the key in a "
        "Prefect Secret block and set PREFECT_API_URL"
    )


def _check_templates(teacher: OpenAITeacher) -> None:
    """Raise ConfigError on a template or a price that is not there."""
    from tasks.annotate.prompts import template_for
    from tasks.endpoint.budget import price_of

    price_of(teacher)
    for sub_task in teacher.prompts:
        template_for({"sub_task": sub_task}, teacher.prompts)


def _student_findings(config: PipelineConfig) -> Iterator[str]:
    from tasks.student.location import resolve_model

    try:
        location = resolve_model(config.student.model)
    except ConfigError as error:
        yield str(error)
        return
    if isinstance(location, str):
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(location, "config.json"), str):
            yield (
                f"student.model: {location} is not in the local Hugging Face cache; fetch it with "
                f"`hf download {location}`, or name a local folder"
            )


def _start_findings(config: PipelineConfig, num_gpus: int) -> Iterator[str]:
    """What training would say at its start, after the annotation is paid. Raises ConfigError as `zero_stage`."""
    devices, grpo = config.student.devices, config.grpo
    yield from attention_refusals(config.student)
    yield from device_refusals(devices, num_gpus)
    yield from deepspeed_refusals("sft", config.sft.deepspeed, devices)
    yield from deepspeed_refusals("grpo", grpo.deepspeed, devices)
    yield from share_refusals(grpo.prompts_per_step, devices)
    yield from reference_refusals(grpo.beta, grpo.deepspeed)


def _deepspeed_findings(config: PipelineConfig) -> Iterator[str]:
    from tasks.student.zero import find_deepspeed

    for path in (config.sft.deepspeed, config.grpo.deepspeed):
        try:
            if path is not None:
                find_deepspeed(path)
        except ConfigError as error:
            yield str(error)


def _teacher_line(plan: Plan) -> str:
    """Rows, tokens, cost: of one try at every training question and of all tries, each to its token limit."""
    teacher, tries = plan.config.annotate.teacher, plan.config.annotate.tries
    asked = f"about {plan.num_asked:,.0f} questions, up to {tries} tries each"
    if not isinstance(teacher, OpenAITeacher):
        return f"{asked}, teacher: embedded, no network"
    from tasks.endpoint.budget import cost_of, price_of

    completion_tokens = plan.num_asked * teacher.max_new_tokens
    cost = cost_of(price_of(teacher), plan.prompt_tokens, completion_tokens)
    budget = "" if teacher.budget is None else f", budget {teacher.budget:,.2f}"
    return (
        f"{asked}, teacher: {teacher.model}; one try each: {plan.prompt_tokens:,.0f} prompt and at most "
        f"{completion_tokens:,.0f} completion tokens, cost at most {cost:,.2f}; all tries: at most "
        f"{tries * cost:,.2f}{budget}"
    )


def _features_line(plan: Plan) -> str:
    """How much of the training pictures' features is kept, where the vision tower is frozen."""
    needed, room = plan.features_gigabytes, plan.config.student.features_gigabytes
    if room == 0:
        kept = "they are kept in memory only"
    else:
        kept = "all are kept" if room >= needed else f"a random {room / needed:.0%} of the pictures is kept"
    return (
        f"Features of all training pictures under a frozen vision tower: {needed:.3g} GB; "
        f"student.features_gigabytes is {room:g}: {kept}"
    )


def print_plan(plan: Plan) -> None:
    """Stages with their sizes, memory per device, findings."""
    config = plan.config
    grpo = config.grpo
    lines = [
        (
            "ingest",
            f"{plan.num_files:,} files, about {plan.num_samples:,.0f} samples with {plan.num_questions:,.0f} questions",
        ),
        ("annotate", _teacher_line(plan)),
        ("compress", f"merge by {config.compress.merge_by or 'nothing'}, at most {config.compress.max_pairs} pairs"),
        ("sft", f"{config.student.model}, {config.sft.epochs:g} epochs, {config.student.devices} device(s)"),
        ("mine", f"{config.mine.prompts:,} prompts x {config.mine.num_rollouts} rollouts"),
        ("grpo", f"{grpo.steps:,} steps x {grpo.prompts_per_step} prompts x {grpo.num_rollouts} rollouts"),
        (
            "evaluate",
            f"at most {config.evaluate.prompts:,} prompts, {config.evaluate.replicates:,} replicates",
        ),
        ("promote", f"{config.promote.registered_model}, if {config.promote.min_gain} holds"),
    ]
    print(f"Plan of {config.name}")
    for stage, what in lines:
        print(f"  {stage:9} {what}")
    print(plan.precision)
    if plan.seconds:
        shown = ", ".join(f"{stage} {in_words(seconds)}" for stage, seconds in plan.seconds.items())
        print(f"Expected on this machine, to a factor of two: {shown}")
    for stage, parts in plan.memory.items():
        print(f"Memory per device, {stage}: " + ", ".join(f"{name} {gib:.1f} GiB" for name, gib in parts.items()))
    if plan.features_gigabytes:
        print(_features_line(plan))
    for note in plan.notes:
        print(f"Note: {note}.")
    for finding in plan.findings:
        print(f"Finding: {finding}")
    print("Nothing stands in its way." if not plan.findings else f"{len(plan.findings)} finding(s): not ready to run.")
