"""Kept features: those of the model, computed once per picture, and answers that do not change by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_config.schema import FreezeConfig, StudentConfig
from tasks.student import vision
from tasks.student.checkpoint import Student, load_student, save_student
from tasks.student.encode import Prompt, encode_dialogues, encode_prompts
from tasks.student.freeze import freeze, part_of
from tasks.student.generate import generate
from tasks.student.tensor_files import TensorFiles
from tasks.student.vision import KeptFeatures

Picture = Callable[[int, int], str]
FAMILIES = ["qwen2_5_vl", "qwen2_vl"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}
# Sides that the processor keeps, among them several windows of 2.5-VL's tower and parts of one.
SIZES = [(56, 56), (140, 84), (168, 224), (84, 196)]


@contextmanager
def counted(student: Student) -> Iterator[list[int]]:
    """How many pictures go through the tower, call by call."""
    calls: list[int] = []
    network = student.model.get_base_model() if hasattr(student.model, "get_base_model") else student.model
    block = network.model.visual.blocks[-1]  # whose attention is over whole pictures in both families
    handle = block.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(len(kwargs["cu_seqlens"]) - 1), with_kwargs=True
    )
    yield calls
    handle.remove()


@pytest.fixture
def load(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Student]:
    """A student whose home is the test's own; keyword arguments are of its configuration."""
    monkeypatch.setenv("DISCERN_HOME", str(tmp_path / "home"))

    def make(source: str | Path = "qwen2_vl", *, train: bool = False, **config: Any) -> Student:
        settings = {"precision": "float32", **config}
        return load_student(str(folders.get(str(source), source)), StudentConfig.model_validate(settings), train=train)

    return make


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "home" / "cache" / "features").glob("*/*"))


def rows_about(paths: list[str]) -> list[dict[str, str]]:
    return [
        {"dialogue_id": f"d{i}", "media_path": path, "prompt": "Which?" + "?" * i, "response": "B" * (i + 1)}
        for i, path in enumerate(paths)
    ]


def plain_features(student: Student, paths: list[str]) -> tuple[torch.Tensor, ...]:
    """From pixels, all pictures in one batch."""
    pictures = [student.pictures.of(path) for path in paths]
    features: tuple[torch.Tensor, ...] = student.model.get_image_features(
        torch.cat([picture.pixel_values for picture in pictures]),
        torch.cat([picture.grid_thw for picture in pictures]),
        return_dict=True,
    ).pooler_output
    return features


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_features_are_the_models(load: Any, family: str, picture: Picture) -> None:
    student, paths = load(family), [picture(*size) for size in SIZES]
    kept = student.features.of([*paths, paths[0]])
    for ours, theirs in zip(kept, (*plain_features(student, paths), kept[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    alone = [load(family, features_gigabytes=0).features.of([path])[0] for path in paths]
    from_disk = load(family).features.of(paths[::-1])[::-1]
    for ours, one, again in zip(kept, alone, from_disk, strict=False):
        torch.testing.assert_close(one, ours, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("merger", [False, True], ids=["merger", "frozen merger"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_plain_forward(
    load: Any, family: str, lora: Any, merger: bool, checkpointing: bool, picture: Picture
) -> None:
    student = load(family, train=True, lora=lora)
    freeze(student.model, FreezeConfig(vision=True, merger=merger))
    if checkpointing:
        student.model.gradient_checkpointing_enable()
    kept, rows = student.kept_features, rows_about([picture(*size) for size in (*SIZES, SIZES[0])])
    found = []
    for features in (None, kept):
        student.kept_features = features
        batch = encode_dialogues(student, rows, 400)
        assert ("pixel_values" in batch) == (features is None)
        loss = student.model(**batch).loss
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in student.model.named_parameters() if p.grad is not None}))
        student.model.zero_grad()
    (plain_loss, plain), (loss, ours) = found
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
    assert ours.keys() == plain.keys()
    assert {part_of(name) for name in ours} == {"language"} | (set() if merger else {"merger"})
    for name, gradient in plain.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_under_mixed_precision_they_are_those_of_the_plain_forward(load: Any, picture: Picture) -> None:
    """And the merger's gradients survive, although autocast may keep what it has cast."""
    student = load("qwen2_5_vl", train=True)
    freeze(student.model, FreezeConfig(vision=True))
    kept, rows = student.kept_features, rows_about([picture(*SIZES[1])])
    logits, gradients = [], []
    for features in (None, kept):
        student.kept_features = features
        batch = encode_dialogues(student, rows, 400)
        with torch.autocast("cpu", torch.bfloat16):
            output = student.model(**batch)
        output.loss.backward()
        logits.append(output.logits.detach())
        merger = {n: p.grad for n, p in student.model.named_parameters() if part_of(n) == "merger"}
        assert all(gradient is not None and gradient.any() for gradient in merger.values())
        gradients.append(merger)
        student.model.zero_grad()
    assert torch.equal(*logits)
    for name, gradient in gradients[0].items():  # summed over the tokens in another order
        assert (gradients[1][name] - gradient).norm() <= 2e-2 * gradient.norm(), name
    with torch.no_grad():
        assert not torch.equal(student.model(**encode_dialogues(student, rows, 400)).logits, logits[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_change(load: Any, family: str, picture: Picture) -> None:
    student = load(family)
    prompts = [Prompt("Which?", picture(56, 56)), Prompt("How severe?", picture(112, 84)), Prompt("A", picture(56, 56))]
    settings: dict[str, Any] = {"temperature": 0, "max_new_tokens": 16, "batch_size": 2, "seed": 0}
    with counted(student) as seen:
        kept = generate(student, prompts, **settings)
        assert seen == [1, 1], "one of each of the two pictures"
    student.kept_features = None
    assert generate(student, prompts, **settings) == kept


def test_the_tower_sees_a_picture_once(load: Any, picture: Picture, tmp_path: Path) -> None:
    """Over training, sampling, another copy of the file, and students to come."""
    paths = [picture(*size) for size in SIZES[:3]]
    student = load(train=True)
    freeze(student.model, FreezeConfig(vision=True))
    with counted(student) as seen:
        for _ in range(2):
            student.model(**encode_dialogues(student, rows_about(paths), 400)).loss.backward()
        generate(student, [Prompt("A", paths[0])], num_rollouts=4, max_new_tokens=2, batch_size=2, seed=0)
        copy = tmp_path / "copy.png"
        copy.write_bytes(Path(paths[1]).read_bytes())
        student.features.of([str(copy)])
        assert seen == [3]
    optimizer = torch.optim.SGD([p for p in student.model.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    save_student(student, tmp_path / "trained")
    for again in (load(), load(tmp_path / "trained"), load(tmp_path / "trained", train=True, lora=LORA)):
        freeze(again.model, FreezeConfig(vision=True))
        with counted(again) as seen:
            again.features.of(paths)
            assert seen == []


def test_pictures_seen_together_are_computed_together_up_to_a_limit(
    load: Any, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [picture(*size) for size in SIZES]
    num_patches = [(width // 14) * (height // 14) for width, height in SIZES]
    expected = load(features_gigabytes=0).features.of(paths)
    monkeypatch.setattr(vision, "_MOST_PATCHES", sum(num_patches[:2]))
    assert num_patches[2] > sum(num_patches[:2]), "one that is over the limit alone"
    student: Any = load(features_gigabytes=0)
    with counted(student) as seen:
        for ours, one in zip(student.features.of(paths), expected, strict=True):
            torch.testing.assert_close(ours, one, rtol=1e-5, atol=1e-5)
        assert seen == [2, 1, 1]


def test_what_shapes_the_features_is_not_confused(load: Any, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(Path(picture(140, 84)).read_bytes())
    student = load()

    def times_seen(student: Student) -> int:
        with counted(student) as seen:
            [ours] = student.features.of([str(path)])
            num_seen = len(seen)
        [theirs] = plain_features(student, [str(path)])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        return num_seen

    assert (times_seen(student), times_seen(student)) == (1, 0)
    path.write_bytes(Path(picture(84, 196)).read_bytes())
    assert (times_seen(student), times_seen(student)) == (1, 0), "another picture of that name"
    assert times_seen(load(max_pixels=56 * 84)) == 1
    assert times_seen(load("qwen2_5_vl")) == 1
    assert times_seen(load(attention="eager")) == 1
    assert times_seen(load(precision="bfloat16")) == 1
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype), counted(student) as seen:
            student.features.of([str(path)])
            student.features.of([str(path)])
        assert len(seen) == 1, "mixed precision makes others, of each kind"
    with torch.no_grad():
        student.model.model.visual.merger.mlp[0].weight.mul_(2)
        assert times_seen(student) == 0, "the merger is not part of them"
        student.model.model.visual.blocks[1].norm1.weight.mul_(2)
    assert times_seen(student) == 1
    assert times_seen(load()) == 0, "the tower as it was"


def test_a_file_that_is_not_what_it_should_be_is_made_again(load: Any, picture: Picture, tmp_path: Path) -> None:
    paths = [picture(56, 56), picture(140, 84)]
    expected = load().features.of(paths)
    files = kept_files(tmp_path)
    whole = [file.read_bytes() for file in files]
    for broken in (whole[0][:-8], whole[0][:4], b"", b"no tensor at all, but long enough", whole[1]):
        files[0].write_bytes(broken)
        student = load()
        with counted(student) as seen:
            for ours, theirs in zip(student.features.of(paths), expected, strict=True):
                assert torch.equal(ours, theirs)
            assert seen == [1]
        assert files[0].read_bytes() == whole[0]
    assert kept_files(tmp_path) == files, "nothing half-written is left"


def test_a_disk_that_cannot_be_written_to_stops_nothing(
    load: Any, picture: Picture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home" / "cache").mkdir(parents=True)
    (tmp_path / "home" / "cache" / "features").write_text("a file where the folder should be")
    student = load()
    assert len(student.features.of([picture(56, 56), picture(140, 84)])) == 2
    assert len(caplog.records) == 1, "said once"


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize("share", [0.08, 0.5, 1.0])
def test_epochs_in_another_order_find_the_share_that_fits(
    load: Any, tmp_path: Path, share: float, on_disk: bool
) -> None:
    paths = []
    for i in range(50):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(paths[-1])
    student = load("qwen2_vl", features_gigabytes=0)
    KeptFeatures(student, TensorFiles(tmp_path / "one", 10**6)).of(paths[:1])
    [file] = (tmp_path / "one").glob("*/*")
    one = file.stat().st_size if on_disk else 16 * 32 * 4  # patches of 32 float32
    room = round(share * len(paths) * one)
    features = KeptFeatures(
        student,
        TensorFiles(tmp_path / "features", room) if on_disk else None,
        kept_bytes=0 if on_disk else room,
        recent_bytes=0,
    )
    for epoch in range(3):
        with counted(student) as seen:
            for i in np.random.default_rng(epoch).permutation(len(paths)):
                features.of([paths[i]])
        hits = 1 - sum(seen) / len(paths)
        assert hits == pytest.approx(0 if epoch == 0 else share, abs=0.05)


def test_without_a_disk_nothing_is_written_and_memory_has_its_limit(
    load: Any, picture: Picture, tmp_path: Path
) -> None:
    student, paths = load(features_gigabytes=0), [picture(56, 56 + 28 * n) for n in range(3)]
    sizes = [len(student.pictures.of(path).pixel_values) * 32 * 4 for path in paths]  # 32 values a patch
    features = KeptFeatures(student, kept_bytes=0, recent_bytes=sum(sizes[1:]))
    with counted(student) as seen:
        features.of(paths[:2])
        features.of(paths[:1])
        features.of(paths[2:])  # pushes out the second
        features.of(paths[:1])
        assert sum(seen) == 3
        features.of(paths[1:2])
        assert sum(seen) == 4
    assert len(features.of(paths)) == 3  # more at once than are kept
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_tower_that_trains_is_always_computed(load: Any, picture: Picture, lora: Any, tmp_path: Path) -> None:
    student = load(train=True, lora=lora)
    for frozen in (FreezeConfig(), FreezeConfig(merger=True, language=True)):
        freeze(student.model, frozen)
        assert student.features is None
        with counted(student) as seen:
            for _ in range(2):
                student.model(**encode_prompts(student, [Prompt("A", picture(56, 56))]))
            assert seen == [1, 1]
    freeze(student.model, FreezeConfig(vision=True))
    assert student.features is not None
    assert kept_files(tmp_path) == []


@pytest.mark.timeout(60)
def test_pictures_prepared_in_a_loaders_worker_are_used(load: Any, picture: Picture, monkeypatch: Any) -> None:
    """A worker sends pixels of each picture it meets once, whatever is kept; the process itself then reads no file."""
    student, rows = load(), rows_about([picture(56, 56), picture(140, 84)])

    def collate(indices: list[int]) -> Any:
        return dict(encode_dialogues(student, [rows[i] for i in indices], 400))

    loader: Any = torch.utils.data.DataLoader(
        [0, 1, 1, 0],  # type: ignore[arg-type]
        batch_size=2,
        collate_fn=collate,
        num_workers=1,
    )
    batches = list(loader)
    monkeypatch.setattr(student.pictures, "process", None)
    with counted(student) as seen, torch.no_grad():
        losses = [student.model(**batch).loss for batch in batches]
        assert seen == [2]
    monkeypatch.undo()
    student.kept_features = None
    for indices, loss in zip(([0, 1], [1, 0]), losses, strict=True):
        torch.testing.assert_close(loss, student.model(**collate(indices)).loss, rtol=1e-5, atol=1e-6)


def test_a_file_that_is_no_picture_is_named(load: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path in (text, tmp_path / "absent.png"):
        with pytest.raises(ValueError, match=f"{path.name}: no picture can be read there"):
            load().features.of([str(path)])


def test_pictures_are_read_again_when_their_file_changes(load: Any, tmp_path: Path) -> None:
    path, student = tmp_path / "picture.png", load()
    for side in (56, 84):
        Image.fromarray(np.full((side, side, 3), side, dtype=np.uint8)).save(path)
        assert student.pictures.of(str(path)).width == student.pictures.resized_size(str(path))[0] == side
