"""Kept features: those of the model, computed once per picture, and answers that do not change by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tasks.student.checkpoint import Student
from tasks.student.encode import Prompt
from tasks.student.generate import generate
from tasks.student.vision import KeptFeatures

Picture = Callable[[int, int], str]


@pytest.fixture
def seen(student: Student) -> list[int]:
    """How many pictures went through the tower, call by call."""
    calls: list[int] = []
    handle = student.model.model.visual.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    yield calls  # type: ignore[misc]
    handle.remove()
    student.features = None


def test_each_picture_goes_through_the_tower_once(student: Student, picture: Picture, seen: list[int]) -> None:
    paths = [picture(56, 56), picture(112, 84), picture(168, 56)]
    features = KeptFeatures(student)
    first = features.of([paths[0], paths[1], paths[0]])
    again = features.of(paths)
    assert seen == [2, 1]
    assert first[0] is first[2] is again[0]
    assert not any(tensor.requires_grad for tensor in again)
    for path, kept in zip(paths, again, strict=True):
        shown = student.pictures.of(path)
        with torch.no_grad():
            [own] = student.model.get_image_features(shown.pixel_values, shown.grid_thw, return_dict=True).pooler_output
        torch.testing.assert_close(kept, own, rtol=1e-4, atol=1e-5)


def test_the_least_recently_used_are_forgotten(student: Student, picture: Picture, seen: list[int]) -> None:
    paths = [picture(56, 56 + 28 * n) for n in range(3)]
    size = KeptFeatures(student).of(paths)[-1].nbytes
    features = KeptFeatures(student, kept_bytes=2 * size)
    seen.clear()
    features.of(paths[:2])
    features.of(paths[:1])
    features.of(paths[2:])  # pushes out the second
    features.of(paths[:1])
    assert seen == [2, 1]
    features.of(paths[1:2])
    assert seen == [2, 1, 1]
    assert len(features.of(paths)) == 3  # more at once than are kept


def test_answers_do_not_change(student: Student, picture: Picture, seen: list[int]) -> None:
    prompts = [Prompt("Which?", picture(56, 56)), Prompt("How severe?", picture(112, 84)), Prompt("A", picture(56, 56))]
    plain = generate(student, prompts, temperature=0, max_new_tokens=16, batch_size=2, seed=0)
    student.features = KeptFeatures(student)
    seen.clear()
    assert generate(student, prompts, temperature=0, max_new_tokens=16, batch_size=2, seed=0) == plain
    assert sum(seen) == len({prompt.media_path for prompt in prompts})
