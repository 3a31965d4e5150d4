"""The registered model, loaded by alias in a process of its own and asked about pictures; the stage around it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_contracts.refs import Ref, Run, digest_of
from pipeline_config.schema import PipelineConfig
from tasks.promote.student_model import picture_path
from tasks.promote.task import promote
from tasks.tracking.runs import Tracking

SCRIPT = """
import sys
sys.path[:] = [p for p in sys.path if p != {root!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
import mlflow, pandas
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model({name!r})
import tasks.student.checkpoint
assert not tasks.student.checkpoint.__file__.startswith({root!r}), tasks.student.checkpoint.__file__
frame = pandas.DataFrame({{"image": {images!r}, "question": ["What is it?"] * 2}})
import json
print(json.dumps(list(model.predict(frame, params={{"max_new_tokens": 6}}))))
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_the_stage_promotes_and_the_champion_answers_without_this_repository(
    home: Path, config: PipelineConfig, student_folder: Path, evaluation: Callable[..., tuple[Ref, Ref]], picture: Path
) -> None:
    tracking = Tracking(home, config.tracking)
    run = Run("run-served", str(home), tracking.start_run("run-served"))
    student = Ref("student", str(student_folder), digest_of(student_folder), 0)
    alias = promote.fn(run, config, *evaluation(0.4), student)
    told = json.loads(alias.path.read_text())
    assert (alias.kind, told["decision"], told["alias"]) == ("alias", "promoted", "champion")

    images = [str(picture), base64.b64encode(picture.read_bytes()).decode()]
    root = str(Path(__file__).parents[2])
    name = f"models:/{config.promote.registered_model}@champion"
    script = textwrap.dedent(SCRIPT).format(root=root, uri=tracking.uri, name=name, images=images)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=picture.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_path, by_content = json.loads(done.stdout.strip().splitlines()[-1])
    assert by_path == by_content
    assert isinstance(by_path, str)


@pytest.mark.parametrize("image", ["no/such/file.png", "aGVsbG8=", "", "data:image/png;base64,aGVsbG8="])
def test_what_is_no_picture_is_named_by_its_row(image: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 3: image"):
        picture_path(image, 3, tmp_path)


def test_a_picture_in_base64_keeps_its_pixels(picture: Path, tmp_path: Path) -> None:
    content = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    path = picture_path(content, 0, tmp_path)
    assert np.array_equal(np.array(Image.open(path)), np.array(Image.open(picture)))
    assert picture_path(str(picture), 0, tmp_path) == str(picture)
