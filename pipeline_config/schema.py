"""The pipeline's configuration: one pydantic model, one section per stage, unknown keys refused.

    config = load_config("pipeline_config/demo.yaml", {"grpo.steps": 5})

Sections bear the names of the stages; `student` and `rewards` are shared by several. A value's unit or meaning that its
name does not tell stands in its description.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_contracts.records import CHOICE_KINDS, DISTORTIONS, SEVERITIES, SUB_TASKS
from pipeline_config.rubrics import DEFAULT_RUBRICS

CONFIG_FOLDER = Path(__file__).parent
_UNKNOWN_KEY = "unknown key: check its spelling against pipeline_config/schema.py"
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key and cure. Never retried."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------------------- ingest
class QuestionsConfig(Section):
    """Which questions are expanded per media file."""

    sub_tasks: tuple[str, ...] = Field(tuple(SUB_TASKS), description="sub-tasks that are asked; others are left out")
    kinds: tuple[str, ...] = Field(CHOICE_KINDS, description="kinds of choice questions (sub-task mcq)")
    num_choices: Annotated[int, Field(ge=2, le=8)] = Field(4, description="most options of a choice question")
    regions_per_image: Count = Field(
        2, description="most questions about a region of one picture (sub-task reg_perception)"
    )

    @model_validator(mode="after")
    def _known(self) -> QuestionsConfig:
        for name, known in (("sub_tasks", tuple(SUB_TASKS)), ("kinds", CHOICE_KINDS)):
            unknown = set(getattr(self, name)) - set(known)
            if unknown:
                raise ValueError(f"{name}: unknown {sorted(unknown)}; known are {list(known)}")
        return self


class SourceConfig(Section):
    """What every source has."""

    name: str = Field(description="your name for the source; each of its samples carries it")
    split: Literal["train", "test"] | None = Field(
        None, description="declared for all files; null = drawn by photograph"
    )


class VidaSource(SourceConfig):
    """ViDA-UGC layout: a folder of images, metadata JSON(L), optional conversation JSONL files."""

    kind: Literal["vida"]
    images: Path = Field(description="folder")
    metadata: Path = Field(description="JSON list or JSONL: labels of each image")
    conversations: tuple[Path, ...] = Field(
        (),
        description="JSONL files with questions and answers, which replace those made from the labels of their images",
    )


class TableSource(SourceConfig):
    """A folder of images and a CSV or Parquet with a score per image (KADID, KonIQ, TID)."""

    kind: Literal["table"]
    images: Path = Field(description="folder")
    scores: Path = Field(description="CSV or Parquet, one row per image")
    file_column: str = Field("image", description="column with the image's path below the folder")
    mos_column: str = Field("mos", description="column with the opinion score")
    reference_column: str | None = Field(
        None, description="column naming the pristine original, whose copies go to one split; null = each image alone"
    )
    mos_range: tuple[float, float] = Field((1.0, 5.0), description="mapped linearly to [1, 5]; (high, low) inverts")


class DegradeSource(SourceConfig):
    """Pristine photographs, degraded with known type, severity and box."""

    kind: Literal["degrade"]
    photographs: Path | Literal["builtin"] = Field("builtin", description="folder, or the photographs shipped here")
    side: Annotated[int, Field(multiple_of=28, ge=56)] = Field(168, description="pixels, both sides of the crop")
    crops_per_photograph: Count = Field(8, description="samples made from each photograph")
    test_crops_per_photograph: Count | None = Field(None, description="null = as crops_per_photograph")
    distortions: tuple[str, ...] = Field(DISTORTIONS, description="types that are drawn")
    severities: tuple[str, ...] = Field(SEVERITIES, description="severities that are drawn")
    max_distortions: Annotated[int, Field(ge=1, le=3)] = Field(3, description="most distortions of one crop")
    pristine_share: Share = Field(0.08, description="share of crops that stay undistorted")
    box_share: Share = Field(0.5, description="share of distortions confined to a box")
    box_step: Count = Field(28, description="pixels; box corners stand on this grid")


Source = Annotated[VidaSource | TableSource | DegradeSource, Field(discriminator="kind")]


class IngestConfig(Section):
    """Which media and labels are read, and which are held out."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = Field(
        description="where media and labels come from, read in this order"
    )
    test_share: Share = Field(0.25, description="share of source photographs held out, where the source declares none")
    max_file_megabytes: float = Field(64.0, description="larger files are quarantined")
    max_megapixels: float = Field(64.0, description="larger pictures are refused before they are decoded")
    near_duplicate_bits: int = Field(4, description="perceptual hashes this close (of 64) go to the same split")
    questions: QuestionsConfig = QuestionsConfig()


# -------------------------------------------------------------------------------------------------------- endpoint
class Price(Section):
    """Of a million tokens of one model, in one currency of your choice."""

    model: str = Field(description="name of the model, as in the section that asks it")
    prompt: Annotated[float, Field(ge=0)] = Field(0.0, description="of a million prompt tokens")
    completion: Annotated[float, Field(ge=0)] = Field(0.0, description="of a million completion tokens")


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint. The key is read from the environment variable or Prefect Secret named here."""

    base_url: str = Field(description="address up to and including the version, such as https://api.openai.com/v1")
    model: str = Field(description="name by which the endpoint knows the model")
    api_key_variable: str = Field(
        "OPENAI_API_KEY",
        description="name of the environment variable with the key; the key itself never stands in a configuration",
    )
    max_in_flight: Count = Field(
        16, description="most requests under way at once; fewer while the endpoint is overloaded"
    )
    requests_per_minute: Annotated[float, Field(ge=0)] = Field(0.0, description="0 = no limit")
    tokens_per_minute: Annotated[float, Field(ge=0)] = Field(0.0, description="prompt and completion; 0 = no limit")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(120.0, description="of one attempt")
    deadline_seconds: Annotated[float, Field(gt=0)] = Field(600.0, description="of one request, from its first attempt")
    max_attempts: Count = Field(5, description="of one request, on 429, 5xx, timeout, lost connection")
    temperature: Annotated[float, Field(ge=0)] = Field(0.0, description="of sampling; 0 = the most likely token")
    max_new_tokens: Count = Field(256, description="most tokens of one reply")
    prices: tuple[Price, ...] = Field((), description="what the models cost; without it no cost is counted")


# -------------------------------------------------------------------------------------------------------- annotate
class MeasuredTeacher(Section):
    """Embedded default, no network: measures the picture and reasons from what it measured."""

    kind: Literal["measured"] = "measured"


class OpenAITeacher(EndpointConfig):
    """Any OpenAI-compatible endpoint as teacher."""

    kind: Literal["openai"]
    temperature: float = Field(1.0, description="of sampling; tries at 0 would all be alike")
    top_p: float = Field(0.95, description="sampled from the likeliest tokens that together have this probability")
    max_new_tokens: Count = Field(512, description="most tokens of one reply")
    budget: Annotated[float, Field(gt=0)] | None = Field(
        None, description="most that the annotation may cost in all, restarts included; needs prices"
    )
    when_spent: Literal["stop", "go_on"] = Field(
        "stop", description="stop: publish what is annotated and end the run; go_on: train on what is annotated"
    )
    prompts: dict[str, str] = Field(
        {}, description="sub-task -> template of tasks/annotate/prompts.py; 'two_sentences' where none is named"
    )
    show_gold: bool = Field(False, description="the teacher is shown the gold and explains it (ViDA-UGC)")
    structured: bool = Field(False, description="ask for JSON by schema; left out if the endpoint refuses it")
    max_pixels: Count | None = Field(None, description="larger pictures are scaled down before they are sent")
    batch_folder: Path | None = Field(
        None, description="write OpenAI Batch request files there and read result files; the endpoint is not called"
    )
    shared_limit: str | None = Field(
        None, description="Prefect global concurrency limit that requests of all runs occupy"
    )

    @model_validator(mode="after")
    def _priced(self) -> OpenAITeacher:
        if self.budget is not None and self.model not in {price.model for price in self.prices}:
            raise ValueError(f"budget: needs the price of {self.model} in prices")
        return self


class AnnotateConfig(Section):
    """Who reasons about the questions, and which reasoning is kept."""

    teacher: Annotated[MeasuredTeacher | OpenAITeacher, Field(discriminator="kind")] = MeasuredTeacher()
    tries: Count = Field(
        3, description="most replies per question: until one agrees with the gold, or all where there is no gold"
    )
    tau: Share = Field(0.6, description="reasoning is kept if the accuracy reward of its answer exceeds this")
    agreement: Share = Field(
        0.6, description="where a question has no gold, more than this share of the tries must agree"
    )
    rejected: Literal["answer_only", "drop"] = Field(
        "drop", description="a question whose every try was rejected: kept with its gold but no reasoning, or left out"
    )
    trace_share: Share = Field(0.01, description="share of an endpoint's replies kept as MLflow traces")


# -------------------------------------------------------------------------------------------------------- compress
class CompressConfig(Section):
    """How the questions of a picture are merged into training prompts."""

    merge_by: tuple[Literal["image", "sub_task"], ...] | None = Field(
        ("image", "sub_task"), description="null = one dialogue per question"
    )
    order: Literal["drawn", "asked"] = Field(
        "drawn", description="of the pairs of a prompt: drawn from the seed, or as the questions stand in annotations"
    )
    max_pairs: Count = Field(8, description="most questions of one prompt")
    max_tokens: Count = Field(480, description="of prompt + response, estimated from characters")
    max_think_tokens: Annotated[int, Field(ge=0)] = Field(40, description="of the one think block per merged turn")
    characters_per_token: float = Field(4.0, description="by which tokens are estimated from characters")


# --------------------------------------------------------------------------------------------------------- student
class LoraConfig(Section):
    """Low-rank adapters that are trained in place of the language model's weights."""

    r: Count = Field(64, description="rank")
    alpha: Count = Field(128, description="adapters are scaled by alpha / r")
    dropout: Share = Field(0.05, description="of the adapters' inputs while training")


class FreezeConfig(Section):
    """Parts of the student that are not trained."""

    vision: bool = Field(False, description="the vision tower; frozen, it computes each picture once")
    merger: bool = Field(False, description="the layers between vision tower and language model")
    language: bool = Field(False, description="the language model")


class ModelShape(Section):
    """Sizes from which ``--dry-run`` estimates memory and time."""

    parameters: Count = Field(description="of the whole model")
    vision_parameters: Count = Field(description="of vision tower and merger")
    hidden: Count = Field(description="width of the language model")
    layers: Count = Field(description="of the language model")
    vocabulary: Count = Field(description="number of token ids")
    kv_width: Count = Field(description="key-value heads times head width")
    vision_width: Count = Field(description="of the vision tower's blocks")


class StudentConfig(Section):
    """The model that is trained, and how it is loaded."""

    model: str = Field("builtin:tiny", description="builtin:tiny, a local folder, or a hub id")
    boxes: Literal["auto", "norm1000", "pixels"] = Field(
        "auto", description="auto: pixels of the resized image for Qwen2.5-VL, norm1000 for Qwen2-VL"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device computes it fast, else float32; chosen when a run starts"
    )
    min_pixels: Count | None = Field(None, description="per picture, as the processor counts; null = checkpoint's")
    max_pixels: Count | None = Field(None, description="per picture, larger ones are scaled down; null = checkpoint's")
    lora: LoraConfig | None = Field(None, description="null = the language model's own weights are trained")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="implementation, by transformers' name"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, more time"
    )
    prefill_tokens: Count = Field(
        32768,
        description="of prompts computed together when sampling, at most, vision tokens and padding included; a longer "
        "prompt is computed alone",
    )
    features_gigabytes: Annotated[float, Field(ge=0)] = Field(
        10.0,
        description="of features of pictures under a frozen vision tower, kept on disk under the home; of more than "
        "fit, a random share; the dry run says how many all take; 10 hold 1,000 pictures of 1,000 vision tokens of "
        "Qwen2.5-VL in bfloat16; 0 = in memory only",
    )
    devices: Count = Field(1, description="processes of the training child; more than one goes through torchrun")
    threads: int = Field(0, description="CPU threads of a child, 0 = all")
    shape: ModelShape | None = Field(None, description="for --dry-run, where the checkpoint is not on this machine")


# ------------------------------------------------------------------------------------------------ training sections
class OptimiserConfig(Section):
    """AdamW and its learning rates."""

    lr: float = Field(description="learning rate of the language model")
    lr_merger: float | None = Field(None, description="null = lr")
    lr_vision: float | None = Field(None, description="null = lr")
    weight_decay: float = Field(0.05, description="not of norms and biases")
    warmup_share: Share = Field(0.03, description="share of the steps in which the learning rate rises from 0")
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="of the learning rate, by transformers' name"
    )
    max_grad_norm: float = Field(1.0, description="a gradient with a larger norm is scaled down to it")
    beta2: float = Field(0.999, description="of Adam: decay of the mean of squared gradients")


class SftConfig(Section):
    """Supervised fine-tuning on the dialogues."""

    epochs: float = Field(1.0, description="times all dialogues are seen")
    batch_size: Count = Field(8, description="dialogues per device and forward pass")
    accumulate: Count = Field(1, description="forward passes per update")
    max_tokens: Count = Field(2048, description="vision tokens included; a longer dialogue is quarantined")
    repeats: dict[str, Count] = Field({}, description="sub-task -> times its dialogues are seen per epoch, if not once")
    optimiser: OptimiserConfig
    freeze: FreezeConfig = FreezeConfig()
    save_steps: Count = Field(100, description="updates between checkpoints")
    deepspeed: Path | None = Field(None, description="DeepSpeed's JSON file; null = without DeepSpeed")


class MineConfig(Section):
    """Rollouts of the fine-tuned student, by which the prompts of GRPO are chosen."""

    prompts: Count = Field(128, description="training dialogues rolled out")
    sub_tasks: tuple[str, ...] = Field(("mcq",), description="of the dialogues that are rolled out")
    num_rollouts: Count = Field(8, description="k, per prompt")
    temperature: float = Field(1.0, description="of sampling")
    top_p: float = Field(1.0, description="sampled from the likeliest tokens that together have this probability")
    max_new_tokens: Count = Field(96, description="most tokens of a rollout")
    max_think_tokens: Count | None = Field(
        None, description="thinking that has not ended by then is ended, and its answer begun; null = never"
    )
    batch_size: Count = Field(128, description="rollouts generated at once")
    right_above: Share = Field(0.99, description="a rollout whose accuracy reward exceeds this counts as all right")
    easy_pool: Annotated[int, Field(ge=0)] = Field(8, description="solved prompts kept beside the hard ones")
    random_control: bool = Field(False, description="also mark an equal-size random set (pool 'random')")


class SamplingConfig(Section):
    """Which prompts a GRPO step rolls out, and which of their groups it learns from (GLM-4.1V-Thinking)."""

    order: Literal["shuffled", "curriculum"] = Field(
        "shuffled", description="curriculum: prompts whose outcome is open now come more often (RLCS)"
    )
    floor: Annotated[float, Field(gt=0)] = Field(
        0.05, description="curriculum: added to the variance of a prompt's accuracy (at most .25) to give its weight"
    )
    memory: Share = Field(
        0.5, description="curriculum: weight of the old estimate of a prompt's accuracy when new rollouts come"
    )
    max_expansion: Annotated[float, Field(ge=1)] = Field(
        1.0, description="most prompts rolled out per prompt trained on, so that groups without variance can be dropped"
    )


class OverlongConfig(Section):
    """Completions that end at the token limit, or near it (DAPO)."""

    mask: bool = Field(False, description="a truncated completion counts in its group's mean and is not trained on")
    penalty_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="the reward falls by up to 1 over this many tokens before the limit; 0 = no penalty"
    )


class GrpoConfig(Section):
    """Reinforcement learning on the mined prompts."""

    pool: Literal["hard", "random"] = Field(
        "hard",
        description="hard: the mined prompts and the easy ones kept beside them; random: those of mine.random_control",
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        30, description="rounds of rollouts, each followed by inner_updates updates"
    )
    max_rollouts: Count | None = Field(
        None, description="the run and its schedule end with the step that reaches as many; null = all steps"
    )
    prompts_per_step: Count = Field(4, description="trained on; sampling.max_expansion may roll out more")
    sampling: SamplingConfig = SamplingConfig()
    num_rollouts: Annotated[int, Field(ge=2)] = Field(8, description="G, per prompt")
    max_new_tokens: Count = Field(96, description="most tokens of a rollout")
    max_think_tokens: Count | None = Field(
        None, description="thinking that has not ended by then is ended, and its answer begun; null = never"
    )
    temperature: float = Field(1.0, description="of sampling")
    top_p: float = Field(1.0, description="sampled from the likeliest tokens that together have this probability")
    batch_size: Count = Field(4, description="prompts per device and forward pass, each with all its completions")
    clip_low: float = Field(0.2, description="lower bound of the ratio is 1 - clip_low")
    clip_high: float = Field(0.28, description="clip-higher (DAPO): upper bound of the ratio is 1 + clip_high")
    beta: float = Field(0.0, description="weight of the KL to the SFT student; 0 loads no reference")
    inner_updates: Count = Field(1, description="updates on the rollouts of one step")
    scale_by_std: bool = Field(
        True, description="divide a group's advantages by the standard deviation of its rewards; false as in Dr. GRPO"
    )
    loss_per: Literal["sample", "token", "constant"] = Field(
        "sample",
        description="sample: mean over completions of their mean over tokens (GRPO); token: mean over tokens (DAPO); "
        "constant: sum over tokens, divided by completions times max_new_tokens (Dr. GRPO)",
    )
    overlong: OverlongConfig = OverlongConfig()
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        10.0,
        description="an update is skipped if its gradient exceeds the usual norm so many times; None = only if loss or "
        "gradient is no number. A DeepSpeed file has to name ZeRO stage 1, 2 or 3",
    )
    optimiser: OptimiserConfig
    freeze: FreezeConfig = FreezeConfig(vision=True)
    probe_prompts: Annotated[int, Field(ge=0)] = Field(64, description="fixed training prompts scored before and after")
    probe_rollouts: Count = Field(4, description="of each probe prompt")
    save_steps: Count = Field(10, description="steps between checkpoints")
    deepspeed: Path | None = Field(
        None, description="with ZeRO-3 the weights are gathered whole on each device for the rollouts of each step"
    )


# --------------------------------------------------------------------------------------------- rewards, evaluation
class LexicalJudge(Section):
    """Offline default: a statement is entailed if one sentence of the text says it in about its own words."""

    kind: Literal["lexical"] = "lexical"
    share: Share = Field(0.7, description="of a statement's content words")


class OpenAIJudge(EndpointConfig):
    """Any OpenAI-compatible endpoint as judge. Verdicts are kept by content under the home (or in the folder named
    here)."""

    kind: Literal["openai"]
    votes: Count = Field(1, description="asked per question; the majority counts, a tie is a no")
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(60.0, description="of one attempt")
    journal: Path | None = Field(None, description="folder of the verdicts kept; null = under the home")


class LengthBonusConfig(Section):
    """Bonus for right answers of a wished length (Video-R1, released code)."""

    bonus: float = Field(0.2, description="size of the bonus")
    shortest: Count = Field(320, description="tokens")
    longest: Count = Field(512, description="tokens")


class OrderBonusConfig(Section):
    """Bonus for answers that need the order of the frames (T-GRPO, Video-R1)."""

    alpha: float = Field(0.3, description="the bonus of a right answer")
    mu: float = Field(
        0.8,
        description="no bonus if accuracy on ordered frames is below mu times that on shuffled ones; 1.0 in the paper",
    )
    by: Literal["mean", "share"] = Field("mean", description="mean accuracy (released code) or share correct (paper)")


class RewardsConfig(Section):
    """Rubrics: per problem type, named rewards and their weights. Total = weighted sum of the parts that apply."""

    rubrics: dict[str, dict[str, float]] = Field({}, description="laid over pipeline_config/rubrics.py, key by key")
    truncated: Share = Field(0.0, description="accuracy of a completion cut at its token limit without an answer")
    unparseable: Share = Field(0.0, description="accuracy of an answer that cannot be read")
    untagged: Literal["answer", "unparseable"] = Field(
        "answer", description="what a completion without any tag is: all of it the answer (format 0), or no answer"
    )
    mos_threshold: float = Field(0.35, description="an opinion score this close to the gold is right (Q-Insight)")
    box_iou: Share = Field(0.5, description="boxes that overlap this much are the same box")
    correct_above: Share = Field(0.1, description="group bonuses: accuracy of a correct answer (.1 Video-R1's code)")
    length_bonus: LengthBonusConfig = LengthBonusConfig()
    order_bonus: OrderBonusConfig = OrderBonusConfig()
    judge: Annotated[LexicalJudge | OpenAIJudge, Field(discriminator="kind")] = LexicalJudge()
    allow_unhealthy: tuple[str, ...] = Field((), description="domains trained on although the health report fails them")

    @model_validator(mode="after")
    def _defaults_below(self) -> RewardsConfig:
        object.__setattr__(self, "rubrics", {**DEFAULT_RUBRICS, **self.rubrics})
        return self


class EvaluateConfig(Section):
    """Held-out questions, answered by every student."""

    prompts: Count = Field(500, description="held-out dialogues at most; all those about a picture, or none")
    max_new_tokens: Count = Field(160, description="most tokens of an answer")
    max_think_tokens: Count | None = Field(
        None, description="thinking that has not ended by then is ended, and its answer begun; null = never"
    )
    batch_size: Count = Field(64, description="answers generated at once")
    replicates: Count = Field(1000, description="bootstrap over source photographs")
    gallery: Count = Field(24, description="pictures shown in the report")


class PromoteConfig(Section):
    """When the new student becomes champion."""

    registered_model: str = Field("discern-student", description="name in MLflow's registry")
    min_gain: dict[str, float] = Field(
        {"composite": 0.0}, description="metric -> smallest paired mean difference to the present champion"
    )
    min_low: dict[str, float] = Field({}, description="metric -> smallest lower end of the paired 95 % interval")


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = Field(None, description="MLflow tracking store; null = SQLite under the home")
    experiment: str = Field("discern", description="name of MLflow's experiment")


class PipelineConfig(Section):
    """A run: one section per stage, and the sections that several stages share."""

    name: str = Field(description="of the configuration; the ids of its runs begin with it")
    seed: int = Field(0, description="of everything that is drawn at random")
    ingest: IngestConfig
    annotate: AnnotateConfig = AnnotateConfig()
    compress: CompressConfig = CompressConfig()
    student: StudentConfig = StudentConfig()
    rewards: RewardsConfig = RewardsConfig()
    sft: SftConfig
    mine: MineConfig = MineConfig()
    grpo: GrpoConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig = PromoteConfig()
    tracking: TrackingConfig = TrackingConfig()


def find_config(name: str | Path) -> Path:
    """A config's path from its path or its bare name (``demo``)."""
    path = Path(name)
    for candidate in (path, CONFIG_FOLDER / path.name, CONFIG_FOLDER / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in CONFIG_FOLDER.glob("*.yaml")))
    raise ConfigError(f"{name}: no such config file, and none of that name in {CONFIG_FOLDER} (there are: {known})")


def load_config(name: str | Path, overrides: dict[str, Any] | None = None) -> PipelineConfig:
    """Read, override (dotted keys, as in ``{"grpo.steps": 5}``) and validate a config.

    Raises ConfigError: missing file, YAML that does not parse, unknown key, value out of range.
    """
    path = find_config(name)
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no mapping; start from {CONFIG_FOLDER / 'demo.yaml'}")
    for dotted, value in (overrides or {}).items():
        _override(tree, dotted, value, path)
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        findings = "\n".join(
            f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']}"
            + (f" ({_UNKNOWN_KEY})" if e["type"] == "extra_forbidden" else "")
            for e in error.errors()
        )
        raise ConfigError(f"{path}: {error.error_count()} key(s) cannot be used:\n{findings}") from error


def _override(tree: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
    *parents, last = dotted.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"{path}: override {dotted}: {'.'.join(parents[: depth + 1])} is not a section")
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise ConfigError(f"{path}: override {dotted}: {last} is no position in a list of {len(node)}")
        node[int(last)] = value
    else:
        node[last] = value
