"""One GRPO step of ours beside TRL's: the same model, prompts, G, completion lengths and optimizer, on one device.

    python -m benchmarks.grpo_step --json grpo_step.json
    python -m benchmarks.grpo_step --settings recipe --precision float32
    python -m benchmarks.grpo_step --device cuda --shape 3b --json grpo_step_3b.json

A Qwen2.5-VL with random weights, G 8, 64 completion tokens, the end of turn banned so that all have that length. short:
four 112 x 112 pictures, 77 prompt tokens, 32 completions a step; long: one 896 x 896 picture, 1,085 prompt tokens
(1,024 of them vision), 8 completions; both with the vision tower frozen and trained. recipe: two prompts of the long
kind under the settings of pipeline_config/qwen2_5_vl_7b.yaml: LoRA of rank 64, gradient checkpointing, a frozen vision
tower. Its micro-batches are one prompt with its 8 completions for us, and 2 completions for TRL. No picture is seen in
two steps. The two trainers take turns, each in a process of its own; the ratio is of the medians over all steps but the
first of each turn. TRL samples with plain `generate`, without vLLM.

shape tiny: 4 + 4 layers, about 6.5M parameters. 3b: the layers of Qwen2.5-VL-3B. precision auto: what the device
computes fast (tasks/student/precision.py); bfloat16 is over float32 weights. limit: what sharing the prompt saves in
language tokens, without the vision passes: G (P + C) / (P + G C). MFU: the operations that a step needs (prompt and
picture once, attention not counted) per second, over those of a large matrix product on this device; bandwidth: the
bytes of weights that decoding has to read per second, over those of a large copy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

G, COMPLETION = 8, 64
CLIENTS = ("ours", "trl")
MICRO_COMPLETIONS = 2  # of TRL's turn in the recipe
LORA = {"r": 64, "alpha": 128, "dropout": 0.0}
WARM = 1  # steps of each turn that do not count


@dataclass(frozen=True)
class Setting:
    side: int
    num_prompts: int
    prompt_tokens: int
    recipe: bool = False

    @property
    def limit(self) -> float:
        return G * (self.prompt_tokens + COMPLETION) / (self.prompt_tokens + G * COMPLETION)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5-VL."""

    hidden: int
    intermediate: int
    layers: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    full_attention: tuple[int, ...]
    heads: int | None = None  # None: those of the shipped student
    kv_heads: int | None = None
    vision_heads: int | None = None
    vocabulary: int | None = None
    mrope_section: tuple[int, int, int] = (8, 12, 12)


SHAPES = {
    "tiny": Shape(256, 576, 4, 256, 384, 4, (0, 1, 2, 3)),
    "3b": Shape(2048, 11008, 36, 1280, 3420, 32, (7, 15, 23, 31), 16, 2, 16, 151_936, (16, 24, 24)),
}
SETTINGS = {"short": Setting(112, 4, 77), "long": Setting(896, 1, 1085), "recipe": Setting(896, 2, 1085, recipe=True)}


# ------------------------------------------------------------------------------------------------- what both train on
def make_model(folder: Path, shape: Shape, device: str) -> None:
    """A checkpoint with the shipped student's processor and random weights."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from tasks.student.location import resolve_model

    source = resolve_model("builtin:tiny")
    config = AutoConfig.from_pretrained(source)
    text = {
        **{"hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers},
        **{"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary},
    }
    config.text_config.update({key: value for key, value in text.items() if value is not None})
    config.text_config.rope_parameters["mrope_section"] = list(shape.mrope_section)
    config.text_config.layer_types = ["full_attention"] * shape.layers
    vision = {
        **{"depth": shape.vision_layers, "hidden_size": shape.vision_hidden, "num_heads": shape.vision_heads},
        **{"intermediate_size": shape.vision_intermediate, "out_hidden_size": shape.hidden},
        "fullatt_block_indexes": list(shape.full_attention),
    }
    config.vision_config.update({key: value for key, value in vision.items() if value is not None})
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    largest = max(setting.side for setting in SETTINGS.values()) ** 2
    AutoProcessor.from_pretrained(source, max_pixels=largest).save_pretrained(folder)


def make_pictures(folder: Path, setting: Setting, steps: int) -> list[Path]:
    """One for every prompt of every step: none is seen twice."""
    import numpy as np
    from PIL import Image

    paths = [folder / f"{setting.side}-{number}.png" for number in range(setting.num_prompts * steps)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (setting.side, setting.side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def question(num_tokens: Callable[[str], int], wanted: int) -> str:
    """A text of which the whole prompt has the wanted number of tokens."""
    text = ""
    while num_tokens(text) < wanted:
        text += "Q"
    assert num_tokens(text) == wanted, f"{num_tokens(text)} prompt tokens, not {wanted}"
    return text


# --------------------------------------------------------------------------------------------------------- one turn
class Clock:
    """Seconds inside wrapped functions, by name; a call inside another of the same name is counted once."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: dict[str, int] = defaultdict(int)

    def now(self) -> float:
        """When the device has done what it was given."""
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            self._inside[name] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._inside[name] -= 1
                if not self._inside[name]:
                    self.seconds[name] += self.now() - started

        setattr(owner, attribute, timed)


def step_clock(clock: Clock) -> Any:
    """A Trainer callback that keeps the seconds of every step and forgets the clock of the warm ones."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = clock.now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(clock.now() - self.started)
            if len(self.seconds) == WARM:
                clock.seconds.clear()

    return Steps()


def our_config(setting: Setting, train_vision: bool, steps: int, folder: Path, precision: str) -> Any:
    """Its reward is that of TRL's turn: groups differ, so that every completion is trained on."""
    from pipeline_config.schema import load_config
    from tasks.rewards.reward import reward

    reward("length", judges="form", source="benchmark", formula="characters mod 7", departs="nothing released")(
        lambda item: float(len(item.turn.text) % 7)
    )
    student = {"model": str(folder / "model"), "precision": precision, "features_gigabytes": 0}
    return load_config(
        "tiny",
        {
            "student": {**student, **({"lora": LORA, "gradient_checkpointing": True} if setting.recipe else {})},
            "mine.batch_size": G * setting.num_prompts,
            "rewards.rubrics": {"choice": {"length": 1.0}},
            "grpo": {
                **{"steps": steps, "prompts_per_step": setting.num_prompts, "num_rollouts": G},
                **{"max_new_tokens": COMPLETION, "save_steps": 10_000},
                "batch_size": 1 if setting.recipe else setting.num_prompts,
                "optimiser": {"lr": 1e-6},
                "freeze": {"vision": not train_vision, "merger": not train_vision},
            },
        },
    )


def our_dialogues(student: Any, setting: Setting, pictures: list[Path]) -> dict[str, dict[str, Any]]:
    """By id, one of each picture."""
    from tasks.student.encode import Prompt, encode_prompt

    text = question(
        lambda text: encode_prompt(student, Prompt(text, str(pictures[0]))).num_prompt, setting.prompt_tokens
    )
    pair = {
        "question_id": "q",
        "sub_task": "mcq",
        "kind": "type",
        "problem_type": "choice",
        "question": text,
        "options": ["a", "b"],
    }
    return {
        path.stem: {
            **{"dialogue_id": path.stem, "media_path": str(path), "prompt": text, "sub_task": "mcq", "num_pairs": 1},
            "pairs": [{**pair, "answer": "A"}],
        }
        for path in pictures
    }


def turn_ours(
    setting: Setting, train_vision: bool, steps: int, folder: Path, device: str, precision: str
) -> dict[str, Any]:
    import tasks.student.generate as sampling
    from tasks.student import decode
    from tasks.student.encode import END_OF_TURN

    # isort: split
    import tasks.grpo.trainer as trainer_module
    from tasks.grpo.sampler import ShuffledSampler
    from tasks.grpo.train import grpo_arguments
    from tasks.student.checkpoint import load_student
    from tasks.student.freeze import freeze

    config = our_config(setting, train_vision, steps, folder, precision)
    args = grpo_arguments(config, folder / "ours", 0, setting.num_prompts)
    student = load_student(str(folder / "model"), config.student, train=True)
    freeze(student.model, config.grpo.freeze)
    student.model.to(args.device)
    dialogues = our_dialogues(student, setting, make_pictures(folder, setting, steps))
    banned = [*sampling.banned_token_ids(student), student.tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    sampling.banned_token_ids = trainer_module.banned_token_ids = lambda _: banned  # type: ignore[assignment]
    clock = Clock(device)
    callback = step_clock(clock)
    clock.wrap(_visual(student.model), "forward", "vision")
    clock.wrap(trainer_module, "generate", "generation")
    clock.wrap(sampling, "_prefill", "prefill")
    for stepper in (decode.TextStepper, decode.LibraryStepper):
        clock.wrap(stepper, "step", "decode")
    clock.wrap(sampling, "_sample", "decode")
    clock.wrap(trainer_module, "score_rollouts", "reward")
    clock.wrap(trainer_module.GrpoTrainer, "_logprobs", "forward")
    trainer = trainer_module.GrpoTrainer(
        student,
        dialogues,
        ShuffledSampler(list(dialogues), 0),
        config,
        args,
        num_prompts=setting.num_prompts,
        folder=folder / "ours",
        stage_run="benchmark",
        callbacks=[callback],
    )
    clock.wrap(trainer.accelerator, "backward", "backward")
    trainer.train()
    return _figures(callback.seconds, clock, student.model)


def turn_trl(
    setting: Setting, train_vision: bool, steps: int, folder: Path, device: str, precision: str
) -> dict[str, Any]:
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    from datasets import Dataset, Image
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    from tasks.student.checkpoint import LORA_TARGETS

    model = AutoModelForImageTextToText.from_pretrained(folder / "model")
    model.model.visual.requires_grad_(train_vision)
    processor = AutoProcessor.from_pretrained(folder / "model")
    pictures = make_pictures(folder, setting, steps)

    def messages(text: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]

    def num_tokens(text: str) -> int:
        from PIL import Image as Picture

        rendered = processor.apply_chat_template(messages(text), tokenize=False, add_generation_prompt=True)
        with Picture.open(pictures[0]) as picture:
            return len(processor(text=[rendered], images=[picture])["input_ids"][0])

    text = question(num_tokens, setting.prompt_tokens)
    rows = {"prompt": [[{"role": "user", "content": text}]] * len(pictures), "image": [str(p) for p in pictures]}
    dataset = Dataset.from_dict(rows).cast_column("image", Image())
    num_completions = G * setting.num_prompts
    micro = MICRO_COMPLETIONS if setting.recipe else num_completions
    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=num_completions // micro,
        num_generations=G,
        max_completion_length=COMPLETION,
        generation_kwargs={"min_new_tokens": COMPLETION},
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-6,
        bf16=precision == "bfloat16",
        gradient_checkpointing=setting.recipe,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1_000,
        disable_tqdm=True,
    )
    clock = Clock(device)
    callback = step_clock(clock)
    clock.wrap(model.model.visual, "forward", "vision")
    clock.wrap(model, "generate", "generation")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(str(c)) % 7) for c in completions],
        args=args,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[callback],
        peft_config=LoraConfig(
            r=LORA["r"], lora_alpha=LORA["alpha"], lora_dropout=LORA["dropout"], target_modules=LORA_TARGETS
        )
        if setting.recipe
        else None,
    )
    clock.wrap(trainer, "_calculate_rewards", "reward")
    clock.wrap(trainer, "_get_per_token_logps_and_entropies", "forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    trainer.train()
    return _figures(callback.seconds, clock, model)


def _figures(seconds: list[float], clock: Clock, model: Any) -> dict[str, Any]:
    import torch

    counted = len(seconds) - WARM
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    # Without LoRA's adapters and its second copy of the tower.
    sizes = {n: p.numel() for n, p in model.named_parameters() if "lora_" not in n and "original_module" not in n}
    vision = sum(size for name, size in sizes.items() if "visual." in name)
    embedding = model.get_input_embeddings().weight.numel()
    return {
        "seconds": seconds[WARM:],
        "parts": {name: total / counted for name, total in clock.seconds.items()},
        "peak_megabytes": peak / 2**20,
        # Of the language model those that take part in every product: the head, not the table of the inputs.
        "parameters": {"vision": vision, "language": sum(sizes.values()) - vision},
        "embedding": embedding if not model.config.get_text_config().tie_word_embeddings else 0,
    }


def _visual(model: Any) -> Any:
    """The vision tower, LoRA's copy in use."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    visual = bare.model.visual
    return visual.modules_to_save[visual.active_adapters[0]] if hasattr(visual, "modules_to_save") else visual


TURNS = {"ours": turn_ours, "trl": turn_trl}


# --------------------------------------------------------------------------------------------- sampling in bfloat16
def bfloat16_gap(setting: Setting, folder: Path, device: str) -> dict[str, float]:
    """How far the log-probs that sampling kept lie from the library's forward, with weights in bfloat16. Nats."""
    import torch

    from pipeline_config.schema import StudentConfig
    from tasks.grpo.forward import completion_logprobs, pad_completions
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt, encode_prompt, encode_prompts
    from tasks.student.generate import banned_token_ids, generate

    student = load_student(str(folder / "model"), StudentConfig(precision="bfloat16"))
    student.model.to(device)
    pictures = [str(path) for path in make_pictures(folder, setting, 1)]
    text = question(lambda text: encode_prompt(student, Prompt(text, pictures[0])).num_prompt, setting.prompt_tokens)
    prompts = [Prompt(text, picture) for picture in pictures]
    groups = generate(student, prompts, num_rollouts=G, max_new_tokens=COMPLETION, batch_size=G * len(prompts), seed=0)
    completions = pad_completions(groups, 0, student.device)
    with torch.no_grad():
        expected, _ = completion_logprobs(
            student.model,
            encode_prompts(student, prompts),
            completions,
            network=student.model,
            train_vision=False,
            temperature=1.0,
            banned_ids=torch.tensor(banned_token_ids(student), device=student.device),
        )
    kept = torch.tensor([logprob for group in groups for c in group for logprob in c.logprobs], device=student.device)
    gaps = (expected[completions.mask_BC.bool()] - kept).abs()
    return {"mean": float(gaps.mean()), "max": float(gaps.max())}


# --------------------------------------------------------------------------------------------------------- the table
def peaks(device: str, precision: str) -> dict[str, float]:
    """What the device does at best: operations per second of a matrix product, bytes per second of a copy."""
    import torch

    dtype = getattr(torch, precision)
    side = 8192 if device == "cuda" else 2048
    square = torch.ones(side, side, dtype=dtype, device=device)
    long = torch.ones(2**28, dtype=torch.uint8, device=device)
    clock = Clock(device)

    def best(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(6):
            started = clock.now()
            work()
            seconds.append(clock.now() - started)
        return min(seconds)

    return {
        "operations": 2 * side**3 / best(lambda: square @ square),
        "bytes": 2 * long.nbytes / best(long.clone),
    }


def compare(
    arguments: argparse.Namespace, name: str, train_vision: bool, folder: Path, peak: dict[str, float]
) -> dict[str, Any]:
    """Both trainers in turns; medians, their ratio, and the parts of a step."""
    turns: dict[str, list[dict[str, Any]]] = {client: [] for client in CLIENTS}
    for _ in range(arguments.repeats):
        for client in CLIENTS:
            command = [sys.executable, "-m", "benchmarks.grpo_step", "--device", arguments.device]
            command += ["--shape", arguments.shape, "--precision", arguments.precision]
            command += ["--turn", client, name, str(int(train_vision))]
            done = subprocess.run(
                [*command, str(WARM + arguments.steps), str(folder)], check=True, stdout=subprocess.PIPE, text=True
            )
            turns[client].append(json.loads(done.stdout.splitlines()[-1]))
    setting = SETTINGS[name]
    medians = {c: statistics.median(s for turn in turns[c] for s in turn["seconds"]) for c in CLIENTS}
    ratio = medians["trl"] / medians["ours"]
    parts = {
        client: {
            part: statistics.median(turn["parts"].get(part, 0.0) for turn in turns[client])
            for part in dict.fromkeys(part for turn in turns[client] for part in turn["parts"])
        }
        for client in CLIENTS
    }
    first = turns["ours"][0]
    needed = operations(setting, first["parameters"], first["embedding"], train_vision)
    width = 2 if arguments.precision == "bfloat16" else 4
    read = (COMPLETION - 1) * (first["parameters"]["language"] - first["embedding"]) * width
    return {
        **{"setting": name, "vision": "trained" if train_vision else "frozen", "seconds": medians, "ratio": ratio},
        "precision": arguments.precision,
        **{"limit": setting.limit, "share_of_limit": ratio / setting.limit, "parts": parts},
        "peak_megabytes": {c: max(turn["peak_megabytes"] for turn in turns[c]) for c in CLIENTS},
        "mfu": {c: needed / medians[c] / peak["operations"] for c in CLIENTS},
        "decode_bandwidth": read / parts["ours"]["decode"] / peak["bytes"],
        **{"parameters": first["parameters"], "peak": peak},
    }


def operations(setting: Setting, parameters: dict[str, int], embedding: int, train_vision: bool) -> float:
    """Floating point operations that a step cannot do without, attention not counted."""
    patches = setting.num_prompts * (setting.side // 14) ** 2
    tokens = setting.num_prompts * (setting.prompt_tokens + G * COMPLETION)
    # Two a weight and token in a forward, four in its backward: sampling's forward, and training's with its backward. A
    # frozen weight under adapters has no gradient of its own: two in the backward.
    vision = 8 if train_vision else 2
    language = 6 if setting.recipe else 8
    return float(language * (parameters["language"] - embedding) * tokens + vision * parameters["vision"] * patches)


def main() -> None:
    from pipeline_config.schema import StudentConfig
    from tasks.student.precision import precision_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--steps", type=int, default=3, help="of one turn, after a warm one")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.precision = precision_of(StudentConfig(precision=arguments.precision))
    if arguments.turn:
        client, name, train_vision, steps, folder = arguments.turn
        turn = TURNS[client](
            SETTINGS[name], train_vision == "1", int(steps), Path(folder), arguments.device, arguments.precision
        )
        print(json.dumps(turn))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model", SHAPES[arguments.shape], arguments.device)
        peak = peaks(arguments.device, arguments.precision)
        print(
            f"{arguments.precision}, at best {peak['operations'] / 1e9:,.0f} GFLOP/s, {peak['bytes'] / 1e9:,.0f} GB/s"
        )
        print("setting    vision   TRL s  ours s   ratio   limit  of it  TRL MB  ours MB")
        for name in arguments.settings:
            for train_vision in (False,) if SETTINGS[name].recipe else (False, True):
                row = compare(arguments, name, train_vision, Path(folder), peak)
                rows.append(row)
                seconds, memory = row["seconds"], row["peak_megabytes"]
                print(
                    f"{name:8}{row['vision']:>9}{seconds['trl']:8.2f}{seconds['ours']:8.2f}{row['ratio']:7.2f}x"
                    f"{row['limit']:7.2f}x{row['share_of_limit']:7.0%}{memory['trl']:8.0f}{memory['ours']:9.0f}",
                    flush=True,
                )
                for client in CLIENTS:
                    shown = ", ".join(f"{part} {value:.2f}" for part, value in row["parts"][client].items())
                    print(f"  {client}: {shown}; MFU {row['mfu'][client]:.0%}")
                print(f"  ours decodes at {row['decode_bandwidth']:.0%} of the copy's bandwidth")
        plain = [name for name in arguments.settings if not SETTINGS[name].recipe]
        gaps = {name: bfloat16_gap(SETTINGS[name], Path(folder), arguments.device) for name in plain}
        for name, gap in gaps.items():
            print(
                f"{name}: log-probs in bfloat16, sampling against the library's forward: "
                f"mean {gap['mean']:.1e}, max {gap['max']:.1e} nats"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": rows, "bfloat16_logprob_gap": gaps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
