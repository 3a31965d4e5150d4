"""Every shipped config parses; what cannot be used is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_config.schema import CONFIG_FOLDER, ConfigError, load_config


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_config_parses_and_is_named_for_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem


def test_a_bare_name_finds_the_shipped_config() -> None:
    assert load_config("demo") == load_config(CONFIG_FOLDER / "demo.yaml")


def test_overrides_reach_nested_keys_and_lists() -> None:
    config = load_config("demo", {"grpo.steps": 5, "ingest.sources.0.side": 112, "student.lora": {"r": 4}})
    assert config.grpo.steps == 5
    assert config.ingest.sources[0].side == 112  # type: ignore[union-attr]
    assert config.student.lora is not None
    assert config.student.lora.r == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"grpo.stepz": 5}, "grpo.stepz"),
        ({"ingest.sources.0.side": 100}, "ingest.sources.0.degrade.side"),
        ({"annotate.teacher": {"kind": "oracle"}}, "annotate.teacher"),
        ({"ingest.sources.7.side": 112}, "7"),
        ({"seed.deep": 1}, "seed is not a section"),
    ],
)
def test_what_cannot_be_used_is_named(overrides: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=r"demo\.yaml") as caught:
        load_config("demo", overrides)
    assert said in str(caught.value)


def test_a_missing_config_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_config("no-such")


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(broken)


def test_the_readmes_teacher_is_a_valid_configuration() -> None:
    import yaml

    from pipeline_config.schema import AnnotateConfig, OpenAITeacher
    from tasks.annotate.prompts import TEMPLATES

    block = (Path(__file__).parents[1] / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    teacher = AnnotateConfig.model_validate(yaml.safe_load(block)["annotate"]).teacher
    assert isinstance(teacher, OpenAITeacher)
    assert set(teacher.prompts.values()) <= set(TEMPLATES)
