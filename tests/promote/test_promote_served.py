"""The registered model, loaded by alias in a process of its own and asked about pictures; the stage around it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data_contracts.refs import Ref, Run, digest_of
from pipeline_config.home import HOME_VARIABLE
from pipeline_config.schema import ConfigError, PipelineConfig, StudentConfig
from tasks.promote.registry import Registry, package_student
from tasks.promote.student_model import StudentModel, picture_path
from tasks.promote.task import promote
from tasks.rewards.answers.turn import read_turn
from tasks.student.checkpoint import load_student, save_student
from tasks.student.encode import Prompt
from tasks.student.generate import generate
from tasks.tracking.runs import Tracking

LORA = StudentConfig.model_validate({"precision": "float32", "lora": {"r": 4, "alpha": 8, "dropout": 0.0}})
QUESTION, NUM_TOKENS = "What is it?", 12
SCRIPT = """
import sys
sys.path[:] = [p for p in sys.path if p != {root!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
import mlflow, pandas
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model({name!r})
ours = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] in ("tasks", "pipeline_config")]
assert ours and not [path for path in ours if path and path.startswith({root!r})], ours
frame = pandas.DataFrame({{"image": {images!r}, "question": [{question!r}] * 2}})
import json
print(json.dumps(list(model.predict(frame, params={{"max_new_tokens": {num_tokens}}}))))
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(path)
    return path


def trained_adapters(base: str, folder: Path) -> Ref:
    """A LoRA student whose every trained weight has moved."""
    torch.manual_seed(0)
    student = load_student(base, LORA, train=True)
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    save_student(student, folder)
    return Ref("student", str(folder), digest_of(folder), 0)


def answer(model: str | Path, picture: Path) -> str:
    """What the registered model should say about the picture."""
    student = load_student(str(model), StudentConfig(precision="float32"))
    prompts = [Prompt(QUESTION, str(picture))]
    [[completion]] = generate(student, prompts, temperature=0, max_new_tokens=NUM_TOKENS, batch_size=1, seed=0)
    turn = read_turn(completion.text)
    return turn.text if turn.answer is None else turn.answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "LoRA on a folder", "LoRA on the builtin"])
def test_the_stage_promotes_and_the_champion_answers_without_this_repository(
    home: Path,
    config: PipelineConfig,
    folders: dict[str, Path],
    evaluation: Callable[..., tuple[Ref, Ref]],
    picture: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(folders["qwen2_5_vl"], base)
    student = Ref("student", str(base), digest_of(base), 0)
    if kind != "full":
        student = trained_adapters("builtin:tiny" if "builtin" in kind else str(base), tmp_path / "student")
    expected = answer(student.path, picture)
    tracking = Tracking(home, config.tracking)
    run = Run("run-served", str(home), tracking.start_run("run-served"))
    config = config.model_copy(update={"student": StudentConfig(precision="float32")})
    alias = promote.fn(run, config, *evaluation(0.4), student)
    told = json.loads(alias.path.read_text())
    assert (alias.kind, told["decision"], told["alias"]) == ("alias", "promoted", "champion")

    base.rename(tmp_path / "moved")
    images = [str(picture), base64.b64encode(picture.read_bytes()).decode()]
    root = str(Path(__file__).parents[2])
    name = f"models:/{config.promote.registered_model}@champion"
    script = textwrap.dedent(SCRIPT).format(
        root=root, uri=tracking.uri, name=name, images=images, question=QUESTION, num_tokens=NUM_TOKENS
    )
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run([sys.executable, "-c", script], cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [expected, expected]


@pytest.mark.parametrize("base", ["folder", "hub"])
def test_registered_adapters_bring_their_base(
    registry: Registry,
    folders: dict[str, Path],
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
) -> None:
    """The champion's checkpoint, which evaluation loads, is what was registered and says what it said."""
    folder = tmp_path / "base"
    shutil.copytree(folders["qwen2_5_vl"], folder)
    student = trained_adapters(str(folder), tmp_path / "student")
    expected = answer(student.path, picture)
    assert expected != answer(folder, picture), "the adapters count"
    if base == "hub":
        in_hub_cache(folder, "someone/base", tmp_path / "hub")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        (student.path / "discern.json").write_text(json.dumps({"boxes": "pixels", "base": "someone/base"}))
        student = Ref("student", student.uri, digest_of(student.path), 0)
    run_id = registry.tracking.start_run(f"adapters-{base}")
    registry.set_alias("champion", registry.register(student, LORA, run_id, {}))
    for gone in (folder, tmp_path / "hub"):
        shutil.rmtree(gone, ignore_errors=True)
    version = registry.aliased("champion")
    assert version is not None
    champion = registry.checkpoint(version, tmp_path / "champion")
    assert champion.digest == student.digest
    assert answer(champion.path, picture) == expected


def in_hub_cache(checkpoint: Path, name: str, cache: Path) -> None:
    """Put a checkpoint where `hf download` does: files by digest, and a snapshot of links to them."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    for made in (snapshot, blobs, repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    for path in checkpoint.iterdir():
        shutil.copyfile(path, blobs / digest_of(path))
        (snapshot / path.name).symlink_to(f"../../blobs/{digest_of(path)}")


def test_adapters_whose_base_is_gone_are_not_registered(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders["qwen2_vl"], tmp_path / "base")
    student = trained_adapters(str(tmp_path / "base"), tmp_path / "student")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ConfigError, match="base: no folder is there"):
        package_student(student.path, LORA, tmp_path / "model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (student.path / "discern.json").write_text('{"base": "someone/base"}')
    with pytest.raises(ConfigError, match="fetch it with `hf download someone/base`"):
        package_student(student.path, LORA, tmp_path / "model")


def test_answers_are_greedy_and_as_long_as_asked_for(
    student_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    model = StudentModel()
    settings = StudentConfig()
    model.load_context(
        SimpleNamespace(
            artifacts={"checkpoint": str(student_folder)}, model_config={"student": settings.model_dump(mode="json")}
        )
    )
    rows = pd.DataFrame({"image": [str(picture)] * 2, "question": ["What is it?", "Where?"]})
    prompts = [Prompt(question, str(picture)) for question in rows["question"]]
    for num_tokens in (3, 9):
        params = {"reasoning": True, "max_new_tokens": num_tokens}
        answers = model.predict(None, rows, params)
        assert not (tmp_path / "home").exists(), "nothing of a served picture stays on disk"
        expected = generate(
            load_student(str(student_folder), StudentConfig(features_gigabytes=0)),
            prompts,
            temperature=0,
            max_new_tokens=num_tokens,
            batch_size=2,
            seed=0,
        )
        assert answers == [group[0].text for group in expected]


@pytest.mark.parametrize("image", ["no/such/file.png", "aGVsbG8=", "", "data:image/png;base64,aGVsbG8="])
def test_what_is_no_picture_is_named_by_its_row(image: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 3: image"):
        picture_path(image, 3, tmp_path)


def test_a_picture_in_base64_keeps_its_pixels(picture: Path, tmp_path: Path) -> None:
    content = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    path = picture_path(content, 0, tmp_path)
    assert np.array_equal(np.array(Image.open(path)), np.array(Image.open(picture)))
    assert picture_path(str(picture), 0, tmp_path) == str(picture)
