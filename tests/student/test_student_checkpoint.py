"""Students load from builtin, folder and LoRA folder, save whole, and what is no student says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline_config.schema import ConfigError, LoraConfig, StudentConfig
from tasks.student import checkpoint
from tasks.student.checkpoint import load_student, resolve_model, save_student
from tasks.student.encode import Prompt, encode_prompts

Picture = Callable[[int, int], str]
LORA = StudentConfig.model_validate({"precision": "float32", "lora": {"r": 4, "alpha": 8, "dropout": 0.0}})


def logits(student: object, picture: Picture) -> torch.Tensor:
    with torch.no_grad():
        batch = encode_prompts(student, [Prompt("Which?", picture(84, 112))])  # type: ignore[arg-type]
        return student.model.eval()(**batch).logits  # type: ignore[attr-defined]


def test_the_builtin_student_loads() -> None:
    tiny = load_student("builtin:tiny", StudentConfig(precision="float32"))
    assert tiny.model.config.model_type == "qwen2_5_vl"
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert 2e6 <= sum(parameter.numel() for parameter in tiny.model.parameters()) <= 6e6


@pytest.mark.parametrize(("family", "boxes"), [("qwen2_5_vl", "pixels"), ("qwen2_vl", "norm1000")])
def test_a_saved_student_is_the_same(
    family: str, boxes: str, folders: dict[str, Path], picture: Picture, tmp_path: Path
) -> None:
    config = StudentConfig(precision="float32", max_pixels=112 * 84)
    before = load_student(str(folders[family]), config, train=True)
    assert before.boxes == boxes
    save_student(before, tmp_path / "student")
    after = load_student(str(tmp_path / "student"), StudentConfig(precision="float32"))
    assert after.boxes == boxes
    assert after.pictures.resized_size(picture(300, 300)) == before.pictures.resized_size(picture(300, 300)) == (84, 84)
    torch.testing.assert_close(logits(after, picture), logits(before, picture), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["student"], "nothing is left beside"


def test_the_box_convention_travels_with_the_student(folders: dict[str, Path], tmp_path: Path) -> None:
    student = load_student(str(folders["qwen2_5_vl"]), StudentConfig(precision="float32", boxes="norm1000"))
    save_student(student, tmp_path / "student")
    assert load_student(str(tmp_path / "student"), StudentConfig(precision="float32")).boxes == "norm1000"
    assert load_student(str(tmp_path / "student"), StudentConfig(precision="float32", boxes="pixels")).boxes == "pixels"


def test_saving_replaces_what_stood_there(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "old").touch()
    save_student(load_student(str(folders["qwen2_vl"]), StudentConfig(precision="float32")), tmp_path / "student")
    assert not (tmp_path / "student" / "old").exists()
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_pictures_have_the_bounds_of_the_configuration(folders: dict[str, Path], picture: Picture) -> None:
    for bounds, size in (({}, (84, 84)), ({"min_pixels": 140 * 140}, (140, 140)), ({"max_pixels": 56 * 56}, (56, 56))):
        student = load_student(str(folders["qwen2_5_vl"]), StudentConfig.model_validate(bounds))
        assert student.pictures.resized_size(picture(84, 84)) == size


def test_new_adapters_have_the_rank_scale_and_dropout_of_the_configuration(folders: dict[str, Path]) -> None:
    config = StudentConfig.model_validate({"lora": {"r": 4, "alpha": 12, "dropout": 0.25}})
    network = load_student(str(folders["qwen2_5_vl"]), config, train=True).model
    adapted = [module for module in network.modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 2 * 7, "every projection of attention and of the perceptron, in both layers"
    for module in adapted:
        assert module.lora_A["default"].out_features == 4
        assert module.scaling["default"] == 12 / 4
        assert module.lora_dropout["default"].p == 0.25


def test_lora_saves_adapters_and_loads_on_its_base(folders: dict[str, Path], picture: Picture, tmp_path: Path) -> None:
    base = str(folders["qwen2_5_vl"])
    student = load_student(base, LORA, train=True)
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    expected = logits(student, picture)
    assert not torch.allclose(
        expected, logits(load_student(base, StudentConfig(precision="float32")), picture), atol=1e-2
    )
    save_student(student, tmp_path / "student")
    assert not (tmp_path / "student" / "model.safetensors").exists()
    assert json.loads((tmp_path / "student" / "discern.json").read_text()) == {"boxes": "pixels", "base": base}
    for train in (False, True):
        again = load_student(str(tmp_path / "student"), StudentConfig(precision="float32"), train=train)
        torch.testing.assert_close(logits(again, picture), expected, rtol=0, atol=0)
        assert any(parameter.requires_grad for parameter in again.model.parameters()) is train


def test_the_base_of_adapters_is_noted_for_every_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["qwen2_vl"].parent)
    for named, noted in ((f"./{folders['qwen2_vl'].name}", str(folders["qwen2_vl"])), ("builtin:tiny",) * 2):
        save_student(load_student(named, LORA, train=True), tmp_path / "student")
        assert json.loads((tmp_path / "student" / "discern.json").read_text())["base"] == noted


def test_lora_trains_adapters_and_the_vision_tower(folders: dict[str, Path]) -> None:
    model = load_student(str(folders["qwen2_vl"]), LORA, train=True).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    language = {name for name in trained if ".visual." not in name}
    assert all("lora_" in name for name in language)
    assert len(language) == 2 * 7 * 2, "two matrices for each of seven linear layers, in two layers"
    assert any(".visual.modules_to_save." in name and ".merger." in name for name in trained)


@pytest.mark.parametrize("lora", [None, LORA.lora], ids=["full", "lora"])
def test_what_trains_is_float32_without_deepspeed(lora: LoraConfig | None, folders: dict[str, Path]) -> None:
    """In half precision an update is rounded away; what is frozen may stay in it."""
    config = StudentConfig(precision="bfloat16", lora=lora)
    model = load_student(str(folders["qwen2_5_vl"]), config, train=True).model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())


def test_training_goes_on_from_the_very_weights_that_were_saved(folders: dict[str, Path], tmp_path: Path) -> None:
    """GRPO starts from SFT's student: half precision takes nothing from what that has learnt."""
    from safetensors.torch import load_file

    config = LORA.model_copy(update={"precision": "bfloat16"})
    student = load_student(str(folders["qwen2_5_vl"]), config, train=True)
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 1e-6)
    save_student(student, tmp_path / "student")
    save_student(load_student(str(tmp_path / "student"), config, train=True), tmp_path / "again")
    saved, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("student", "again"))
    assert saved.keys() == again.keys()
    assert any("visual" in name for name in saved)
    assert all(torch.equal(again[name], weight) for name, weight in saved.items())


def test_lora_whose_base_is_gone(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["qwen2_5_vl"], tmp_path / "base")
    save_student(load_student(str(tmp_path / "base"), LORA, train=True), tmp_path / "student")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ConfigError, match="base: no folder is there"):
        load_student(str(tmp_path / "student"), StudentConfig(precision="float32"))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "builtin:huge"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"builtin:tiny"):
        resolve_model(name)


def test_names_that_are_no_path_go_to_the_hub() -> None:
    assert resolve_model("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="download it to the Hugging Face cache"):
        load_student("nobody/nothing", StudentConfig(precision="float32"))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ConfigError, match="architecture 'llama' is not supported"):
        load_student(str(tmp_path), StudentConfig(precision="float32"))


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_student(str(tmp_path), StudentConfig(precision="float32"))


def test_weights_of_another_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["qwen2_5_vl"], tmp_path / "student")
    weights = load_file(tmp_path / "student" / "model.safetensors")
    lacking = {name: weight for name, weight in weights.items() if "layers.1." not in name}
    save_file(lacking, tmp_path / "student" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"12 weights are missing .*layers\.1\."):
        load_student(str(tmp_path / "student"), StudentConfig(precision="float32"))
    (tmp_path / "student" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="its weights cannot be loaded"):
        load_student(str(tmp_path / "student"), StudentConfig(precision="float32"))


def test_every_process_answers_on_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    network = torch.nn.Linear(2, 2)
    moved: list[str] = []
    monkeypatch.setattr(network, "to", moved.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    checkpoint._place(network, train=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    checkpoint._place(network, train=False)
    assert (chosen, moved) == ([3], ["cuda", "cuda"])
