"""What every test starts from."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pipeline_config.home import HOME_VARIABLE
from pipeline_config.schema import CONFIG_FOLDER


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of the tests' own: students keep features there."""
    before = os.environ.get(HOME_VARIABLE)
    folder = tmp_path_factory.mktemp("home")
    os.environ[HOME_VARIABLE] = str(folder)
    yield folder
    if before is None:
        del os.environ[HOME_VARIABLE]
    else:
        os.environ[HOME_VARIABLE] = before


def pytest_configure() -> None:
    """Property tests draw the same examples every time, and SIGINT works.

    A shell hands SIGINT to its background jobs ignored, and they to their children; tests send it and wait.
    """
    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def pictures_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of each call of any Qwen2.5-VL student's vision tower, from here on."""
    import tasks.student.torchvision_operators  # noqa: F401  before transformers

    # isort: split
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

    seen: list[int] = []
    forward = Tower.forward

    def counting(self: Any, hidden_states: Any, grid_thw: Any, **settings: Any) -> Any:
        seen.append(len(grid_thw))
        return forward(self, hidden_states, grid_thw=grid_thw, **settings)

    monkeypatch.setattr(Tower, "forward", counting)
    return seen


@pytest.fixture
def zero_file(tmp_path: Path) -> Callable[[int], str]:
    """zero_file(stage) -> the shipped DeepSpeed file, except that ZeRO-3 shards small weights too.

    It keeps what has fewer than 100,000 elements whole, which a test's student has throughout.
    """

    def write(stage: int) -> str:
        tree = json.loads((CONFIG_FOLDER / "deepspeed" / f"zero{stage}.json").read_text())
        if stage == 3:
            tree["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = tmp_path / f"zero{stage}.json"
        path.write_text(json.dumps(tree))
        return str(path)

    return write
