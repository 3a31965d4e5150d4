"""A frozen part keeps every byte through a real optimizer step, and what is not frozen does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline_config.schema import ConfigError, FreezeConfig, OptimiserConfig, StudentConfig
from tasks.student.checkpoint import load_student
from tasks.student.encode import encode_dialogues
from tasks.student.freeze import Part, freeze, parameter_digest, parameter_groups, part_of

PARTS: tuple[Part, ...] = ("vision", "merger", "language")
RATES = OptimiserConfig(lr=1e-2, lr_merger=1e-3, lr_vision=1e-4, weight_decay=0.1)
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize(
    "frozen", [{"vision"}, {"vision", "merger"}, {"merger"}, {"language"}], ids=lambda parts: "+".join(sorted(parts))
)
def test_frozen_parts_keep_every_byte(
    family: str, lora: dict[str, float] | None, frozen: set[Part], folders: dict[str, Path], picture: Callable[..., str]
) -> None:
    student = load_student(
        str(folders[family]), StudentConfig.model_validate({"precision": "float32", "lora": lora}), train=True
    )
    freeze(student.model, FreezeConfig.model_validate(dict.fromkeys(frozen, True)))
    before = {part: parameter_digest(student.model, part) for part in PARTS}
    optimizer = torch.optim.AdamW(parameter_groups(student.model, RATES))
    row = {"dialogue_id": "d", "media_path": picture(56, 84), "prompt": "Which?", "response": "B"}
    student.model(**encode_dialogues(student, [row], 200)).loss.backward()
    optimizer.step()
    changed = {part for part in PARTS if parameter_digest(student.model, part) != before[part]}
    assert changed == set(PARTS) - frozen


def test_every_parameter_has_its_part(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        model = load_student(str(folder), StudentConfig(precision="float32")).model
        names = [name for name, _ in model.named_parameters()]
        assert {part_of(name) for name in names} == set(PARTS)
        merger = {id(parameter) for parameter in model.model.visual.merger.parameters()}
        vision = {id(parameter) for parameter in model.model.visual.parameters()} - merger
        for name, parameter in model.named_parameters():
            expected = "merger" if id(parameter) in merger else "vision" if id(parameter) in vision else "language"
            assert part_of(name) == expected


def test_groups_have_their_rates_and_decay(folders: dict[str, Path]) -> None:
    model = load_student(str(folders["qwen2_vl"]), StudentConfig(precision="float32"), train=True).model
    groups = parameter_groups(model, RATES)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == {"vision": 1e-4, "merger": 1e-3, "language": 1e-2}[part_of(name)]
        assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_missing_rates_are_the_language_models(folders: dict[str, Path]) -> None:
    model = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32"), train=True).model
    assert {group["lr"] for group in parameter_groups(model, OptimiserConfig(lr=0.5))} == {0.5}


def test_freezing_all_is_refused(folders: dict[str, Path]) -> None:
    model = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32"), train=True).model
    freeze(model, FreezeConfig(vision=True, merger=True, language=True))
    with pytest.raises(ConfigError, match="nothing is left to train"):
        parameter_groups(model, RATES)
