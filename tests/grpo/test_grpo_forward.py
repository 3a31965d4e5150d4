"""The training forward: log-probs equal to the plain forward, one completion at a time, and to what was sampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import tasks.student.torchvision_operators  # noqa: F401  before anything imports torchvision

# isort: split
import torch

from pipeline_config.schema import FreezeConfig, LoraConfig, StudentConfig
from tasks.grpo.forward import (
    Completions,
    completion_logprobs,
    packed_logprobs,
    pad_completions,
    shared_prompt_logprobs,
    training_forward,
)
from tasks.launcher.job import Job
from tasks.student.checkpoint import Student, load_student
from tasks.student.encode import Prompt, encode_prompts
from tasks.student.freeze import freeze
from tasks.student.generate import Completion, banned_token_ids

TEMPERATURE = 0.8


def padded(groups: list[list[list[int]]], student: Student) -> Completions:
    """Completions of these token ids; what they were sampled with does not matter here."""
    completions = [[Completion("", ids, False, [0.0] * len(ids)) for ids in group] for group in groups]
    return pad_completions(completions, 0, student.device)


@pytest.fixture(scope="module")
def sampled(
    student_folder: Path, tables: dict[str, Path]
) -> tuple[Student, list[Prompt], list[list[list[int]]], Completions]:
    """A student, four prompts of different lengths and pictures, and three completions of each, of 1 to 9 tokens."""
    student = load_student(str(student_folder), StudentConfig(precision="float32"), train=True)
    rows = pq.read_table(tables["dialogues"]).to_pylist()[:4]
    prompts = [Prompt(row["prompt"], row["media_path"]) for row in rows]
    rng = np.random.default_rng(0)
    groups = [[rng.integers(0, 256, 1 + (5 * p + 2 * g) % 9).tolist() for g in range(3)] for p in range(4)]
    return student, prompts, groups, padded(groups, student)


@pytest.fixture(params=[completion_logprobs, shared_prompt_logprobs, packed_logprobs])
def forward(request: pytest.FixtureRequest) -> Any:
    return request.param


def logprobs_of(
    forward: Any, student: Student, prompts: Any, completions: Completions, train_vision: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    return forward(
        student.model,
        prompts,
        completions,
        network=student.model,
        train_vision=train_vision,
        temperature=TEMPERATURE,
        banned_ids=torch.tensor(banned_token_ids(student)),
    )


def plain_logprobs(student: Student, prompt: Prompt, token_ids: list[int]) -> torch.Tensor:
    """The reference: one sequence, no padding, the model's own forward from pixels, logits everywhere."""
    batch = encode_prompts(student, [prompt])
    ids = torch.tensor([token_ids])
    num_prompt = batch["input_ids"].shape[1]
    types = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], 1)
    logits = student.model(
        input_ids=torch.cat([batch["input_ids"], ids], 1),
        mm_token_type_ids=types,
        pixel_values=batch["pixel_values"],
        image_grid_thw=batch["image_grid_thw"],
    ).logits[0, num_prompt - 1 : -1]
    logits[:, banned_token_ids(student)] = -torch.inf
    return torch.log_softmax(logits / TEMPERATURE, -1).gather(1, ids[0].unsqueeze(1)).squeeze(1)


def test_logprobs_are_those_of_the_plain_forward(sampled: Any, forward: Any) -> None:
    student, prompts, groups, completions = sampled
    logprobs, _ = logprobs_of(forward, student, encode_prompts(student, prompts), completions)
    for row, (p, token_ids) in enumerate((p, ids) for p, group in enumerate(groups) for ids in group):
        expected = plain_logprobs(student, prompts[p], token_ids)
        torch.testing.assert_close(logprobs[row, : len(token_ids)], expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_plain_forward(sampled: Any, forward: Any) -> None:
    student, prompts, groups, completions = sampled
    model = student.model
    logprobs, _ = logprobs_of(forward, student, encode_prompts(student, prompts), completions)
    (logprobs * completions.mask_BC).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for p, group in enumerate(groups):
        for token_ids in group:
            plain_logprobs(student, prompts[p], token_ids).sum().backward()
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert ours.keys() == theirs.keys()
    assert any("visual" in name for name in ours)
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-7, name


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """The parameters' gradients, which are cleared."""
    held = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return held


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8, dropout=0.0)], ids=["full", "lora"])
def test_packed_under_gradient_checkpointing_it_is_the_plain_forward(
    folders: dict[str, Path], tables: dict[str, Path], family: str, attention: Any, lora: LoraConfig | None
) -> None:
    """Prompts and completions of different lengths; micro-batches that cut a group, one prompt and many."""
    student = load_student(
        str(folders[family]), StudentConfig(precision="float32", lora=lora, attention=attention), train=True
    )
    model = student.model
    if lora:  # adapters start at zero, where half of their gradients are zero too
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    dialogues = pq.read_table(tables["dialogues"]).to_pylist()[:3]
    prompts = [Prompt(row["prompt"], row["media_path"]) for row in dialogues]
    rng = np.random.default_rng(1)
    groups = [[rng.integers(0, 256, length).tolist() for length in lengths] for lengths in ((3, 6, 1), (9, 4), (2, 5))]
    completions = padded(groups, student)
    encoded = encode_prompts(student, prompts)
    weights_BC = torch.rand(completions.mask_BC.shape, generator=torch.Generator().manual_seed(0))
    weights_BC = (weights_BC - 0.5) * completions.mask_BC
    expected_BC = torch.zeros_like(weights_BC)
    for row, (p, token_ids) in enumerate((p, ids) for p, group in enumerate(groups) for ids in group):
        logprobs = plain_logprobs(student, prompts[p], token_ids)
        (logprobs * weights_BC[row, : len(token_ids)]).sum().backward()
        expected_BC[row, : len(token_ids)] = logprobs.detach()
    expected = gradients(model)
    model.activation_checkpointing_enable()
    for rows in (slice(0, 2), slice(2, 6), slice(6, 7)):
        part = completions.rows(rows)
        logprobs_BC, _ = logprobs_of(packed_logprobs, student, encoded, part)
        num_tokens = logprobs_BC.shape[1]
        difference_BC = (logprobs_BC.detach() - expected_BC[rows, :num_tokens]) * part.mask_BC
        assert difference_BC.norm() <= 1e-5 * expected_BC[rows].norm()
        (logprobs_BC * weights_BC[rows, :num_tokens]).sum().backward()
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    assert {"visual" in name for name in ours} == {True, False}
    for name, gradient in expected.items():
        assert gradient.norm() > 0 or "k_proj.bias" in name, name
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_the_forward_follows_what_the_setting_allows(make_job: Callable[..., Job]) -> None:
    def chosen(zero: int = 2, **student: Any) -> Any:
        deepspeed = f"pipeline_config/deepspeed/zero{zero}.json"
        return training_forward(make_job(config_student=student, deepspeed=deepspeed).config)

    assert chosen() is shared_prompt_logprobs
    assert chosen(attention="flash_attention_2") is shared_prompt_logprobs
    assert chosen(gradient_checkpointing=True) is packed_logprobs
    assert chosen(zero=3) is packed_logprobs
    assert chosen(gradient_checkpointing=True, attention="flash_attention_2") is completion_logprobs


def test_a_micro_batch_is_a_slice_of_the_batch(sampled: Any, forward: Any) -> None:
    student, prompts, _, completions = sampled
    encoded = encode_prompts(student, prompts)
    whole, entropies = logprobs_of(forward, student, encoded, completions)
    for rows in (slice(0, 5), slice(5, 12)):
        part = completions.rows(rows)
        assert part.token_ids_BC.shape[1] == int(part.mask_BC.sum(1).max())
        logprobs, entropy = logprobs_of(forward, student, encoded, part)
        length = logprobs.shape[1]
        mask = part.mask_BC.bool()
        torch.testing.assert_close(logprobs[mask], whole[rows, :length][mask], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[mask], entropies[rows, :length][mask], rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_builds_no_graph_and_runs_once_per_picture(
    sampled: Any, forward: Any, pictures_seen: list[int]
) -> None:
    student, prompts, _, completions = sampled
    logprobs, _ = logprobs_of(forward, student, encode_prompts(student, prompts), completions, train_vision=False)
    logprobs.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in student.model.model.visual.parameters())
    assert student.model.get_input_embeddings().weight.grad.any()
    student.model.zero_grad()
    assert pictures_seen == [4], "four pictures, however many completions"


def test_completions_pad_behind_and_keep_their_prompt() -> None:
    groups = [
        [Completion("", [5, 6, 7], True, [-0.5, 0.0, -1.0], forced=[1]), Completion("", [8], False, [-2.0])],
        [Completion("", [9, 10], False, [-3.0, -4.0]), Completion("", [11], True, [-5.0])],
    ]
    completions = pad_completions(groups, 0, torch.device("cpu"))
    assert completions.token_ids_BC.tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0], [11, 0, 0]]
    assert completions.mask_BC.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert completions.prompt_B.tolist() == [0, 0, 1, 1]
    assert completions.in_loss_BC.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]], "what was forced is not"
    assert completions.sampled_logprobs_BC.tolist() == [[-0.5, 0, -1], [-2, 0, 0], [-3, -4, 0], [-5, 0, 0]]
    masked = pad_completions(groups, 0, torch.device("cpu"), mask_truncated=True)
    assert masked.in_loss_BC.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert masked.mask_BC.tolist() == completions.mask_BC.tolist(), "attention still sees them"
    part = completions.rows(torch.tensor([1, 2]))
    assert part.token_ids_BC.tolist() == [[8, 0], [9, 10]]
    assert part.prompt_B.tolist() == [0, 1]


@pytest.mark.parametrize("merger", [False, True], ids=["merger", "frozen merger"])
def test_kept_features_give_the_plain_gradients(sampled: Any, forward: Any, student_folder: Path, merger: bool) -> None:
    """The merger, where it trains, gets its gradients from every completion; the tower does not run again."""
    _, prompts, groups, completions = sampled
    student = load_student(str(student_folder), StudentConfig(precision="float32"), train=True)
    freeze(student.model, FreezeConfig(vision=True, merger=merger))
    encoded = encode_prompts(student, prompts)
    assert "pixel_values" not in encoded
    logprobs, _ = logprobs_of(forward, student, encoded, completions)
    (logprobs * completions.mask_BC).sum().backward()
    ours = {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}
    seen: list[Any] = []
    handle = student.model.model.visual.register_forward_hook(lambda *call: seen.append(call))
    logprobs_of(forward, student, encode_prompts(student, prompts), completions.rows(slice(0, 5)))
    handle.remove()
    assert not seen
    student.model.zero_grad()
    student.kept_features = None
    for p, group in enumerate(groups):
        for token_ids in group:
            plain_logprobs(student, prompts[p], token_ids).sum().backward()
    theirs = {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert any("merger" in name for name in ours) != merger
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-7, name
