"""A real model behind a real server: the tiny student by `transformers serve`, pictures and all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_config.schema import AnnotateConfig, RewardsConfig
from tasks.annotate.annotate import annotate_samples, make_teacher
from tasks.student.location import resolve_model
from tests.annotate.endpoint import question, sample, write_samples
from tests.flows.desk import free_port, wait_until

# torchvision's own decoder does not load beside a CPU build of torch: PIL decodes for the server.
SERVE = """
import io, sys
import tasks.student.torchvision_operators
import numpy, torch, torchvision.io
from PIL import Image
from transformers.cli.transformers import main

def decode_image(data, *_, **__):
    picture = Image.open(io.BytesIO(bytes(data.numpy()))).convert("RGB")
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1)

torchvision.io.decode_image = torchvision.io.image.decode_image = decode_image
import transformers.image_utils as image_utils
if hasattr(image_utils, "decode_image"):
    image_utils.decode_image = decode_image
sys.argv = ["transformers", "serve", *sys.argv[1:]]
main()
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model() -> str:
    return str(resolve_model("builtin:tiny"))


@pytest.fixture(scope="module")
def base_url(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVE, model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(healthy, 180, f"transformers serve (see {folder / 'log'})")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_a_real_model_answers_about_real_pictures(base_url: str, model: str, tmp_path: Path) -> None:
    """It is no teacher, so what it says is mostly put aside; but every question is asked, answered and counted."""
    samples = write_samples(tmp_path, [sample(tmp_path, n, [question()]) for n in range(4)])
    teacher = {"kind": "openai", "base_url": base_url, "model": model, "max_new_tokens": 24, "max_in_flight": 2}
    config = AnnotateConfig.model_validate({"teacher": teacher, "tries": 1, "rejected": "answer_only"})

    def run() -> dict[str, float]:
        made = make_teacher(config.teacher, "key")
        done = asyncio.run(annotate_samples(samples, tmp_path / "journal", config, RewardsConfig(), made))
        assert done.table.num_rows == 4
        return done.figures

    figures = run()
    assert (figures["asked"], figures["teacher_calls"]) == (4, 4)
    assert 0 < figures["completion_tokens"] <= 4 * 24
    assert figures["prompt_tokens"] > 4 * 200
    assert run()["teacher_calls"] == 0
