"""Where the key of an endpoint comes from: the environment, else a Prefect Secret, never the config."""

from __future__ import annotations

import pytest

from pipeline_config.schema import ConfigError, OpenAITeacher
from tasks.annotate.task import api_key

VARIABLE = "DISCERN_TEST_TEACHER_KEY"


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sk-from-the-environment")
    assert api_key(VARIABLE) == "sk-from-the-environment"


def test_a_config_has_no_room_for_a_key() -> None:
    with pytest.raises(ValueError, match="api_key"):
        OpenAITeacher.model_validate({"kind": "openai", "base_url": "http://x/v1", "model": "m", "api_key": "sk-0"})


@pytest.mark.slow
def test_a_secret_is_found_and_a_missing_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.delenv(VARIABLE, raising=False)
    with prefect_test_harness(server_startup_timeout=120):
        with pytest.raises(ConfigError, match=rf"neither the environment variable {VARIABLE} nor the Prefect Secret"):
            api_key(VARIABLE)
        Secret(value="sk-from-a-secret").save("discern-test-teacher-key")
        assert api_key(VARIABLE) == "sk-from-a-secret"
