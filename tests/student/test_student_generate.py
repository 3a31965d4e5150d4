"""Sampling: token for token transformers' generate where it is greedy, the softmax where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_config.schema import StudentConfig
from tasks.student import generate as module
from tasks.student.checkpoint import Student, load_student
from tasks.student.encode import END_OF_TURN, Prompt, encode_prompts
from tasks.student.generate import banned_token_ids, generate

Picture = Callable[[int, int], str]


def prompts_of(picture: Picture) -> list[Prompt]:
    return [
        Prompt("Which?", picture(56, 56)),
        Prompt("Which distortion affects the image most?\nA. Noise\nB. Low clarity", picture(112, 84)),
        Prompt("1. Where?\n2. How severe is the noise?", picture(168, 56)),
        Prompt("Which?", picture(140, 140)),
    ]


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_greedy_equals_transformers(
    family: str, lora: dict[str, int] | None, folders: dict[str, Path], picture: Picture
) -> None:
    student = load_student(str(folders[family]), StudentConfig.model_validate({"lora": lora}), train=bool(lora))
    prompts = prompts_of(picture)
    end = student.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ours = generate(student, prompts, temperature=0, max_new_tokens=24, batch_size=3, seed=0)
    student.model.eval()
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        batch = encode_prompts(student, [prompt])
        theirs = student.model.generate(
            **batch, do_sample=False, max_new_tokens=24, suppress_tokens=banned_token_ids(student), eos_token_id=end
        )[0, batch["input_ids"].shape[1] :].tolist()
        assert completion.token_ids == theirs
        assert completion.truncated is (theirs[-1] != end)
    assert len({tuple(completion.token_ids) for (completion,) in ours}) > 1, "the prompts matter"


def test_the_picture_matters(student: Student, picture: Picture) -> None:
    prompts = [Prompt("Which?", picture(56, 56)), Prompt("Which?", picture(56, 84))]
    (first,), (second,) = generate(student, prompts, temperature=0, max_new_tokens=16, batch_size=2, seed=0)
    assert first.token_ids != second.token_ids


def test_rollouts_follow_the_softmax(student: Student, picture: Picture) -> None:
    prompt = Prompt("Which?", picture(56, 56))
    with torch.no_grad():
        logits = student.model(**encode_prompts(student, [prompt])).logits[0, -1]
    logits[banned_token_ids(student)] = float("-inf")
    for temperature in (1.0, 0.5):
        expected = torch.softmax(logits / temperature, dim=0)
        (rollouts,) = generate(
            student, [prompt], num_rollouts=4000, temperature=temperature, max_new_tokens=1, batch_size=4000, seed=1
        )
        counts = torch.bincount(torch.tensor([r.token_ids[0] for r in rollouts]), minlength=len(expected))
        assert (counts / 4000 - expected).abs().max() < 0.03
        assert counts[expected == 0].sum() == 0


def test_top_p_keeps_the_nucleus(student: Student, picture: Picture) -> None:
    prompt = Prompt("Which?", picture(56, 56))
    with torch.no_grad():
        logits = student.model(**encode_prompts(student, [prompt])).logits[0, -1]
    logits[banned_token_ids(student)] = float("-inf")
    ordered, tokens = torch.softmax(logits, dim=0).sort(descending=True)
    size = int((ordered.cumsum(0) < 0.5).sum()) + 1
    (rollouts,) = generate(student, [prompt], num_rollouts=2000, top_p=0.5, max_new_tokens=1, batch_size=500, seed=1)
    assert {r.token_ids[0] for r in rollouts} == set(tokens[:size].tolist())


def test_a_seed_gives_the_same_rollouts(student: Student, picture: Picture) -> None:
    def sample(seed: int) -> list[list[int]]:
        groups = generate(student, prompts_of(picture), num_rollouts=3, max_new_tokens=12, batch_size=6, seed=seed)
        return [rollout.token_ids for group in groups for rollout in group]

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)
    assert len({tuple(ids) for ids in sample(5)}) == 12, "rollouts of one prompt differ"


def test_more_rollouts_than_the_batch(student: Student, picture: Picture) -> None:
    seen: list[tuple[int, int]] = []
    groups = generate(
        student,
        prompts_of(picture)[:2],
        num_rollouts=5,
        max_new_tokens=3,
        batch_size=2,
        seed=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [len(group) for group in groups] == [5, 5]
    assert seen == [(2, 10), (4, 10), (5, 10), (7, 10), (9, 10), (10, 10)]


def test_the_picture_is_computed_once_for_its_rollouts(
    student: Student, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches: list[int] = []
    visual = student.model.model.visual
    forward = visual.forward
    monkeypatch.setattr(visual, "forward", lambda x, *args, **kw: patches.append(len(x)) or forward(x, *args, **kw))
    generate(student, [Prompt("Which?", picture(56, 84))], num_rollouts=8, max_new_tokens=4, batch_size=8, seed=0)
    assert patches == [4 * 6]


def test_rows_that_ended_leave_the_batch(student: Student, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the commonest token in the end's place, rows end at different steps; tokens stay those of a row alone."""
    prompts = [Prompt(letter * 3, picture(56, 56)) for letter in "abcdefghijklmnop"]
    options = {"temperature": 0.0, "max_new_tokens": 16, "seed": 0}
    endless = generate(student, prompts, batch_size=16, **options)
    rows = [completion.token_ids for (completion,) in endless]
    end = max(range(267), key=lambda token: sum(token in row for row in rows))
    expected = [row[: row.index(end) + 1] if end in row else row for row in rows]
    assert len({len(row) for row in expected}) > 3
    monkeypatch.setattr(module, "END_OF_TURN", student.tokenizer.convert_ids_to_tokens(end))
    sizes: list[int] = []
    hook = student.model.lm_head.register_forward_hook(lambda _, __, logits: sizes.append(len(logits)))
    together = generate(student, prompts, batch_size=16, **options)
    hook.remove()
    assert [completion.token_ids for (completion,) in together] == expected
    assert sizes[0] == 16
    assert sizes[-1] <= 8


def test_boxes_come_back_in_thousandths(student: Student, picture: Picture) -> None:
    ids = student.tokenizer("<|box_start|>(28,14),(56,84)<|box_end|>", add_special_tokens=False)["input_ids"]
    end = student.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    prompt, no_draws = Prompt("Which?", picture(56, 84)), np.empty(0)
    completion = module._completion(student, prompt, module._Row(0, 0, no_draws, [*ids, end]), end)
    assert completion.text == "<|box_start|>(500,167),(1000,1000)<|box_end|>"
    assert completion.token_ids == [*ids, end]
    assert not completion.truncated
    assert module._completion(student, prompt, module._Row(0, 0, no_draws, ids), end).truncated


def test_training_mode_comes_back(folders: dict[str, Path], picture: Picture) -> None:
    student = load_student(str(folders["qwen2_5_vl"]), StudentConfig(gradient_checkpointing=True), train=True)
    generate(student, [Prompt("Which?", picture(56, 56))], max_new_tokens=2, batch_size=1, seed=0)
    assert student.model.training
    assert all(parameter.requires_grad for parameter in student.model.parameters())
