"""One GRPO step of ours beside TRL's: the same model, prompts, G, completion lengths and optimizer, on one device.

    python -m benchmarks.grpo_step --json grpo_step.json

A Qwen2.5-VL of about 6.5M parameters (4 + 4 layers, random weights), G 8, 64 completion tokens, the end of turn banned
so that all have that length. short: four 112 x 112 pictures, 77 prompt tokens, 32 completions a step; long: one
896 x 896 picture, 1,085 prompt tokens (1,024 of them vision), 8 completions. With the vision tower frozen and trained;
no picture is seen in two steps. The two trainers take turns, each in a process of its own; the ratio is of the medians
over all steps but the first of each turn. limit: what sharing the prompt saves in language tokens, without the vision
passes: G (P + C) / (P + G C).
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
WARM = 1  # steps of each turn that do not count


@dataclass(frozen=True)
class Setting:
    side: int
    num_prompts: int
    prompt_tokens: int

    @property
    def limit(self) -> float:
        return G * (self.prompt_tokens + COMPLETION) / (self.prompt_tokens + G * COMPLETION)


SETTINGS = {"short": Setting(112, 4, 77), "long": Setting(896, 1, 1085)}


# ------------------------------------------------------------------------------------------------- what both train on
def make_model(folder: Path) -> None:
    """A checkpoint with the shipped student's processor and random weights."""
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from tasks.student.location import resolve_model

    source = resolve_model("builtin:tiny")
    config = AutoConfig.from_pretrained(source)
    config.text_config.update({"hidden_size": 256, "intermediate_size": 576, "num_hidden_layers": 4})
    config.text_config.rope_parameters["mrope_section"] = [8, 12, 12]
    config.text_config.layer_types = ["full_attention"] * 4
    vision = {"depth": 4, "hidden_size": 256, "intermediate_size": 384, "out_hidden_size": 256}
    config.vision_config.update({**vision, "fullatt_block_indexes": [0, 1, 2, 3]})
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
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

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: dict[str, int] = defaultdict(int)

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._inside[name] += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._inside[name] -= 1
                if not self._inside[name]:
                    self.seconds[name] += time.perf_counter() - started

        setattr(owner, attribute, timed)


def step_clock(clock: Clock) -> Any:
    """A Trainer callback that keeps the seconds of every step and forgets the clock of the warm ones."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)
            if len(self.seconds) == WARM:
                clock.seconds.clear()

    return Steps()


def turn_ours(setting: Setting, train_vision: bool, steps: int, folder: Path) -> dict[str, Any]:
    import tasks.student.generate as sampling
    from tasks.student import decode
    from tasks.student.encode import END_OF_TURN, Prompt, encode_prompt

    # isort: split
    import tasks.grpo.trainer as trainer_module
    from pipeline_config.schema import StudentConfig, load_config
    from tasks.grpo.sampler import ShuffledSampler
    from tasks.grpo.train import grpo_arguments
    from tasks.rewards.reward import reward
    from tasks.student.checkpoint import load_student
    from tasks.student.freeze import freeze

    # As TRL's turn rewards: groups that differ, so that every completion is trained on.
    reward("length", judges="form", source="benchmark", formula="characters mod 7")(
        lambda item: float(len(item.turn.text) % 7)
    )
    num_completions = G * setting.num_prompts
    config = load_config(
        "tiny",
        {
            "student.model": str(folder / "model"),
            "student.precision": "float32",
            "mine.batch_size": num_completions,
            "rewards.rubrics": {"choice": {"length": 1.0}},
            "grpo": {
                **{"steps": steps, "prompts_per_step": setting.num_prompts, "num_rollouts": G},
                **{"max_new_tokens": COMPLETION, "batch_size": num_completions, "save_steps": 10_000},
                "optimiser": {"lr": 1e-6},
                "freeze": {"vision": not train_vision, "merger": not train_vision},
            },
        },
    )
    args = grpo_arguments(config, folder / "ours", 0, setting.num_prompts)
    student = load_student(str(folder / "model"), StudentConfig(precision="float32", features_gigabytes=0), train=True)
    freeze(student.model, config.grpo.freeze)
    pictures = make_pictures(folder, setting, steps)
    text = question(
        lambda text: encode_prompt(student, Prompt(text, str(pictures[0]))).num_prompt, setting.prompt_tokens
    )
    pair = {"question_id": "q", "kind": "type", "problem_type": "choice", "question": text, "options": ["a", "b"]}
    dialogues = {
        path.stem: {
            **{"dialogue_id": path.stem, "media_path": str(path), "prompt": text, "sub_task": "mcq", "num_pairs": 1},
            "pairs": [{**pair, "answer": "A"}],
        }
        for path in pictures
    }
    banned = [*sampling.banned_token_ids(student), student.tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    sampling.banned_token_ids = trainer_module.banned_token_ids = lambda _: banned  # type: ignore[assignment]
    clock = Clock()
    callback = step_clock(clock)
    clock.wrap(student.model.model.visual, "forward", "vision")
    clock.wrap(trainer_module, "generate", "generation")
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


def turn_trl(setting: Setting, train_vision: bool, steps: int, folder: Path) -> dict[str, Any]:
    import tasks.student.torchvision_operators  # noqa: F401

    # isort: split
    from datasets import Dataset, Image
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

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
    args = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=num_completions,
        num_generations=G,
        max_completion_length=COMPLETION,
        generation_kwargs={"min_new_tokens": COMPLETION},
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-6,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1_000,
        disable_tqdm=True,
    )
    clock = Clock()
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
    )
    clock.wrap(trainer, "_calculate_rewards", "reward")
    clock.wrap(trainer, "_get_per_token_logps_and_entropies", "forward")
    clock.wrap(trainer.accelerator, "backward", "backward")
    trainer.train()
    return _figures(callback.seconds, clock, model)


def _figures(seconds: list[float], clock: Clock, model: Any) -> dict[str, Any]:
    counted = len(seconds) - WARM
    return {
        "seconds": seconds[WARM:],
        "parts": {name: total / counted for name, total in clock.seconds.items()},
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


TURNS = {"ours": turn_ours, "trl": turn_trl}


# --------------------------------------------------------------------------------------------- sampling in bfloat16
def bfloat16_gap(setting: Setting, folder: Path) -> dict[str, float]:
    """How far the log-probs that sampling kept lie from the library's forward, with weights in bfloat16. Nats."""
    import torch

    from pipeline_config.schema import StudentConfig
    from tasks.grpo.forward import completion_logprobs, pad_completions
    from tasks.student.checkpoint import load_student
    from tasks.student.encode import Prompt, encode_prompt, encode_prompts
    from tasks.student.generate import banned_token_ids, generate

    student = load_student(str(folder / "model"), StudentConfig(precision="bfloat16"))
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
def compare(name: str, train_vision: bool, steps: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Both trainers in turns; medians, their ratio, and the parts of a step."""
    turns: dict[str, list[dict[str, Any]]] = {client: [] for client in CLIENTS}
    for _ in range(repeats):
        for client in CLIENTS:
            command = [sys.executable, "-m", "benchmarks.grpo_step", "--turn", client, name, str(int(train_vision))]
            done = subprocess.run(
                [*command, str(WARM + steps), str(folder)], check=True, stdout=subprocess.PIPE, text=True
            )
            turns[client].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {c: statistics.median(s for turn in turns[c] for s in turn["seconds"]) for c in CLIENTS}
    limit = SETTINGS[name].limit
    ratio = medians["trl"] / medians["ours"]
    parts = {
        client: {
            part: statistics.median(turn["parts"].get(part, 0.0) for turn in turns[client])
            for part in dict.fromkeys(part for turn in turns[client] for part in turn["parts"])
        }
        for client in CLIENTS
    }
    memory = {c: max(turn["peak_megabytes"] for turn in turns[c]) for c in CLIENTS}
    return {
        **{"setting": name, "vision": "trained" if train_vision else "frozen", "seconds": medians, "ratio": ratio},
        **{"limit": limit, "share_of_limit": ratio / limit, "parts": parts, "peak_megabytes": memory},
        "parameters": turns["ours"][0]["parameters"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="of one turn, after a warm one")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        client, name, train_vision, steps, folder = arguments.turn
        print(json.dumps(TURNS[client](SETTINGS[name], train_vision == "1", int(steps), Path(folder))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model")
        print(f"{'setting':8}{'vision':>9}{'TRL s':>8}{'ours s':>8}{'ratio':>8}{'limit':>8}{'TRL MB':>8}{'ours MB':>9}")
        for name in arguments.settings:
            for train_vision in (False, True):
                row = compare(name, train_vision, arguments.steps, arguments.repeats, Path(folder))
                rows.append(row)
                seconds, memory = row["seconds"], row["peak_megabytes"]
                print(
                    f"{name:8}{row['vision']:>9}{seconds['trl']:8.2f}{seconds['ours']:8.2f}{row['ratio']:7.2f}x"
                    f"{row['limit']:7.2f}x{memory['trl']:8.0f}{memory['ours']:9.0f}",
                    flush=True,
                )
                for client in CLIENTS:
                    shown = ", ".join(f"{part} {value:.2f}" for part, value in row["parts"][client].items())
                    print(f"  {client}: {shown}")
        gaps = {name: bfloat16_gap(SETTINGS[name], Path(folder)) for name in arguments.settings}
        shown = ", ".join(f"{name} mean {gap['mean']:.1e} max {gap['max']:.1e}" for name, gap in gaps.items())
        print(f"log-probs in bfloat16, sampling against the library's forward, nats: {shown}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": rows, "bfloat16_logprob_gap": gaps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
