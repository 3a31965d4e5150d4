"""Sampling: token for token transformers' generate where it is greedy, the softmax where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_config.schema import StudentConfig
from tasks.student import decode
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


def policy_logprobs(student: Student, prompt: Prompt, token_ids: list[int], temperature: float) -> torch.Tensor:
    """By a plain forward over prompt and completion."""
    batch = encode_prompts(student, [prompt])
    ids = torch.tensor([token_ids])
    batch["input_ids"] = torch.cat([batch["input_ids"], ids], dim=1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], dim=1)
    with torch.no_grad():
        logits = student.model(**batch).logits[0, -len(token_ids) - 1 : -1].float()
    logits[:, banned_token_ids(student)] = float("-inf")
    return torch.log_softmax(logits / temperature, dim=1).gather(1, ids.T)[:, 0]


@pytest.fixture(params=["own step", "own step, layers apart", "library's step"])
def either_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "library's step":
        monkeypatch.setattr(decode, "is_plain", lambda model: False)
    if request.param == "own step, layers apart":
        monkeypatch.setattr(decode, "MOST_JOINED", 0)


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_greedy_equals_transformers(
    family: str, lora: dict[str, int] | None, folders: dict[str, Path], picture: Picture, either_step: None
) -> None:
    student = load_student(
        str(folders[family]), StudentConfig.model_validate({"precision": "float32", "lora": lora}), train=bool(lora)
    )
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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_size_changes_nothing(
    student: Student, picture: Picture, temperature: float, monkeypatch: pytest.MonkeyPatch, either_step: None
) -> None:
    """Rows end at different steps, others join them, prompts of different lengths stand side by side."""
    options = {"num_rollouts": 3, "temperature": temperature, "top_p": 0.9, "max_new_tokens": 70, "seed": 3}
    endless = generate(student, prompts_of(picture), batch_size=64, **options)
    late = [token for group in endless for rollout in group for token in rollout.token_ids[6:]]
    monkeypatch.setattr(module, "END_OF_TURN", student.tokenizer.convert_ids_to_tokens(max(late, key=late.count)))
    sampled = [generate(student, prompts_of(picture), batch_size=size, **options) for size in (1, 3, 7, 64)]
    rows = [[[rollout.token_ids for rollout in group] for group in groups] for groups in sampled]
    assert all(other == rows[0] for other in rows[1:])
    assert len({len(ids) for group in rows[0] for ids in group}) > 2
    logprobs = [torch.tensor([p for group in groups for r in group for p in r.logprobs]) for groups in sampled]
    for other in logprobs[1:]:
        torch.testing.assert_close(other, logprobs[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_how_prefills_are_cut_changes_nothing(
    student: Student, picture: Picture, temperature: float, monkeypatch: pytest.MonkeyPatch, either_step: None
) -> None:
    """Each prompt alone, some together, all together; rows join beside rows of other lengths."""
    options = {"num_rollouts": 3, "temperature": temperature, "top_p": 0.9, "max_new_tokens": 70, "seed": 3}
    endless = generate(student, prompts_of(picture), batch_size=64, **options)
    late = [token for group in endless for rollout in group for token in rollout.token_ids[6:]]
    monkeypatch.setattr(module, "END_OF_TURN", student.tokenizer.convert_ids_to_tokens(max(late, key=late.count)))
    prefills: list[int] = []
    prefill = module._prefill
    monkeypatch.setattr(module, "_prefill", lambda s, encoded: prefills.append(len(encoded)) or prefill(s, encoded))
    sampled, counts = [], []
    for most_tokens in (1, 150, 32768):
        monkeypatch.setattr(student, "prefill_tokens", most_tokens)
        sampled.append(generate(student, prompts_of(picture), batch_size=64, **options))
        counts.append(prefills.copy())
        prefills.clear()
    assert counts[0] == [1, 1, 1, 1]
    assert counts[2] == [4]
    assert 1 < len(counts[1]) < 4
    rows = [[[rollout.token_ids for rollout in group] for group in groups] for groups in sampled]
    assert rows[0] == rows[1] == rows[2]
    assert len({len(ids) for group in rows[0] for ids in group}) > 2
    logprobs = [torch.tensor([p for group in groups for r in group for p in r.logprobs]) for groups in sampled]
    for other in logprobs[1:]:
        torch.testing.assert_close(other, logprobs[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("most_tokens", [1, 50, 100, 200, 400])
def test_a_prefill_holds_at_most_the_configured_tokens(
    most_tokens: int, folders: dict[str, Path], picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vision tokens and padding count; a prompt that is longer goes alone; no more prefills than it takes."""
    student = load_student(str(folders["qwen2_5_vl"]), StudentConfig(prefill_tokens=most_tokens))
    prompts = [Prompt("Which?" * (1 + n % 3), picture(56 * (1 + n % 4), 56)) for n in range(12)]
    lengths = sorted(encode_prompts(student, [prompt])["input_ids"].shape[1] for prompt in prompts)
    assert lengths[0] < 50 < lengths[-1] < 100
    shapes: list[tuple[int, int]] = []
    forward = student.model.forward

    def counting(**batch: torch.Tensor) -> object:
        shapes.append((len(batch["input_ids"]), batch["input_ids"].shape[1]))
        return forward(**batch)

    monkeypatch.setattr(student.model, "forward", counting)
    monkeypatch.setattr(decode, "is_plain", lambda model: True)
    generate(student, prompts, temperature=0, max_new_tokens=2, batch_size=12, seed=0)
    assert all(rows * length <= most_tokens or rows == 1 for rows, length in shapes)
    filled: list[list[int]] = [[]]
    for length in lengths:  # shortest first
        if filled[-1] and (len(filled[-1]) + 1) * length > most_tokens:
            filled.append([])
        filled[-1].append(length)
    assert shapes == [(len(together), max(together)) for together in filled]


def test_prompts_are_handed_over_as_they_end(student: Student, picture: Picture) -> None:
    """Whole prompts, before the others have begun; the same completions as in order."""
    prompts = [Prompt(letter * 3, picture(56, 56)) for letter in "abcdefgh"]
    options = {"num_rollouts": 3, "max_new_tokens": 12, "seed": 5}
    expected = generate(student, prompts, batch_size=64, **options)
    training = student.model.training
    begun: list[int] = []
    prefill = module._prefill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_prefill", lambda s, encoded: begun.append(len(encoded)) or prefill(s, encoded))
        groups = module.completed(student, prompts, batch_size=6, **options)
        place, group = next(groups)
        assert sum(begun) < len(prompts)
        assert torch.is_grad_enabled(), "what the caller does meanwhile is its own"
    handed_over = {place: group} | dict(groups)
    assert [[r.token_ids for r in handed_over[i]] for i in range(8)] == [[r.token_ids for r in g] for g in expected]
    abandoned = module.completed(student, prompts, batch_size=2, **options)
    next(abandoned)
    abandoned.close()
    assert student.model.training is training


def test_numbers_make_a_share_of_the_prompts_say_what_all_would(student: Student, picture: Picture) -> None:
    prompts = [Prompt("Which?", picture(56, 56)) for _ in range(6)]  # told apart by their numbers alone
    options = {"num_rollouts": 2, "max_new_tokens": 12, "batch_size": 64, "seed": 5}
    everyone = [[r.token_ids for r in group] for group in generate(student, prompts, **options)]
    assert len({tuple(ids) for group in everyone for ids in group}) == 12
    for rank in range(2):
        share = generate(student, prompts[rank::2], numbers=range(rank, 6, 2), **options)
        assert [[r.token_ids for r in group] for group in share] == everyone[rank::2]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_are_those_of_a_plain_forward(
    student: Student, picture: Picture, temperature: float, either_step: None
) -> None:
    prompts = prompts_of(picture)
    options = {"num_rollouts": 2, "temperature": temperature, "top_p": 0.8, "max_new_tokens": 12}
    groups = generate(student, prompts, batch_size=5, seed=4, **options)
    for prompt, group in zip(prompts, groups, strict=True):
        for rollout in group:
            expected = policy_logprobs(student, prompt, rollout.token_ids, temperature or 1.0)
            torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)


def test_rows_join_when_a_quarter_is_free(student: Student, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an end that comes early, rows end one by one; prefills stay few, and never more rows live than allowed."""
    prompts = [Prompt(chr(97 + number % 26) * 3, picture(56, 56)) for number in range(40)]
    monkeypatch.setattr(module, "END_OF_TURN", "e")
    prefills: list[int] = []
    steps: list[int] = []
    prefill, step = module._prefill, decode.TextStepper.step
    monkeypatch.setattr(module, "_prefill", lambda s, encoded: prefills.append(len(encoded)) or prefill(s, encoded))
    monkeypatch.setattr(decode.TextStepper, "step", lambda s, tokens: steps.append(len(tokens)) or step(s, tokens))
    generate(student, prompts, temperature=3.0, max_new_tokens=60, batch_size=8, seed=0)
    assert sum(prefills) == 40
    assert prefills[0] == 8
    assert all(2 <= count <= 8 for count in prefills)
    assert max(steps) <= 8
    assert sum(size > 6 for size in steps[: len(steps) // 2]) > len(steps) // 5, "freed places are filled again"


def test_in_bfloat16_and_under_autocast(folders: dict[str, Path], picture: Picture, either_step: None) -> None:
    prompts = prompts_of(picture)
    options = {"num_rollouts": 2, "max_new_tokens": 12, "batch_size": 5, "seed": 4}
    whole = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32"))
    half = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="bfloat16"))
    assert half.model.dtype == torch.bfloat16
    for student, enabled in ((half, False), (whole, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            groups = generate(student, prompts, **options)
            sampled = [(p, r) for p, group in zip(prompts, groups, strict=True) for r in group]
            expected = [policy_logprobs(student, p, r.token_ids, 1.0) for p, r in sampled]
        difference = torch.cat(expected) - torch.tensor([logprob for _, r in sampled for logprob in r.logprobs])
        assert difference.abs().mean() < 0.03


def test_what_is_not_plain_takes_the_librarys_step(folders: dict[str, Path]) -> None:
    student = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32"))
    text = student.model.model.language_model
    assert decode.is_plain(student.model)
    handle = text.layers[1].self_attn.register_forward_hook(lambda *_: None)
    assert not decode.is_plain(student.model)
    handle.remove()
    student.model._original_forward = student.model.forward
    student.model.forward = lambda *args, **kwargs: None  # as accelerate does for mixed precision
    assert not decode.is_plain(student.model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decode.is_plain(student.model)
    del student.model.forward
    assert decode.is_plain(student.model)
    text.rotary_emb.rope_type = "dynamic"
    assert not decode.is_plain(student.model)
    text.rotary_emb.rope_type = "default"
    text.layers[0].self_attn.q_proj.weight.ds_id = 7  # as ZeRO-3 marks what it holds a part of
    assert not decode.is_plain(student.model)


@pytest.mark.parametrize("opened", ["<think>", "<think>so</think>", "no tag"])
def test_thinking_too_long_is_given_an_answer_to_begin(
    student: Student, picture: Picture, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions begin with `opened`, as if they had been sampled so; the rest is sampled."""
    limit, after = 20, 30
    begun = student.tokenizer(opened, add_special_tokens=False)["input_ids"]
    sample = module._sample

    def begin(logits: torch.Tensor, rows: list[module._Row], sampling: module._Sampling) -> torch.Tensor:
        tokens = sample(logits, rows, sampling)
        for number, row in enumerate(rows):
            if len(row.token_ids) <= len(begun):
                tokens[number] = row.token_ids[-1] = begun[len(row.token_ids) - 1]
        return tokens

    monkeypatch.setattr(module, "_sample", begin)
    options = {"num_rollouts": 4, "max_new_tokens": limit + after, "batch_size": 3, "seed": 1}
    prompts = prompts_of(picture)[:2]
    free = [r for group in generate(student, prompts, **options) for r in group]
    cut = [r for group in generate(student, prompts, **options, max_think_tokens=limit) for r in group]
    answer = student.tokenizer("</think><answer>", add_special_tokens=False)["input_ids"]
    for one, other in zip(free, cut, strict=True):
        assert other.token_ids[:limit] == one.token_ids[:limit]
        if len(one.token_ids) > limit and opened == "<think>":
            assert other.forced == list(range(limit, limit + len(answer)))
            assert [other.token_ids[i] for i in other.forced] == answer
            assert len(other.token_ids) > limit + len(answer)
            assert len(other.token_ids) <= limit + after
            assert len(other.logprobs) == len(other.token_ids)
        else:
            assert other.forced == []
            assert other.token_ids == one.token_ids
    assert any(len(one.token_ids) > limit for one in free)
    assert all(one.forced == [] for one in free)
    for prompt, completion in zip([p for p in prompts for _ in range(4)], cut, strict=True):
        if completion.forced:
            expected = policy_logprobs(student, prompt, completion.token_ids, 1.0)[limit:]
            torch.testing.assert_close(torch.tensor(completion.logprobs[limit:]), expected, rtol=0, atol=1e-4)


def test_more_rollouts_than_the_batch(student: Student, picture: Picture) -> None:
    options = {"num_rollouts": 5, "max_new_tokens": 3, "seed": 0}
    few, many = (generate(student, prompts_of(picture)[:2], batch_size=size, **options) for size in (2, 64))
    assert [len(group) for group in few] == [5, 5]
    assert [[r.token_ids for r in group] for group in few] == [[r.token_ids for r in group] for group in many]


def test_the_picture_is_computed_once_for_its_rollouts(
    student: Student, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "kept_features", None)
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
    student = load_student(
        str(folders["qwen2_5_vl"]), StudentConfig(precision="float32", gradient_checkpointing=True), train=True
    )
    generate(student, [Prompt("Which?", picture(56, 56))], max_new_tokens=2, batch_size=1, seed=0)
    assert student.model.training
    assert all(parameter.requires_grad for parameter in student.model.parameters())
