"""What counts in a cache key, and when a hit counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_contracts.refs import Ref, Run, digest_of
from pipeline_config.schema import CONFIG_FOLDER, PipelineConfig
from tasks.launcher import cache
from tasks.launcher.cache import CacheEntry, cache_key, content_digest, stage_digest
from tasks.student import zero


def settings(**changes: Any) -> PipelineConfig:
    tree = {
        "name": "cache-test",
        "ingest": {"sources": [{"kind": "degrade", "name": "made"}]},
        "sft": {"optimiser": {"lr": 1e-4}},
        "grpo": {"optimiser": {"lr": 1e-5}},
        **changes,
    }
    return PipelineConfig.model_validate(tree)


@pytest.fixture
def published(tmp_path: Path) -> Ref:
    path = tmp_path / "runs" / "r" / "sft" / "student"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")
    return Ref("student", str(path), digest_of(path), 0)


def test_the_key_follows_inputs_seed_and_the_stages_own_sections() -> None:
    inputs = {"annotations": Ref("annotations", "/a", "digest-1", 1)}
    first = stage_digest("compress", settings(), inputs)
    assert stage_digest("compress", settings(name="other", mine={"prompts": 3}), inputs) == first
    assert stage_digest("compress", settings(), {"annotations": Ref("annotations", "/b", "digest-1", 9)}) == first
    others = {
        stage_digest("compress", settings(compress={"max_pairs": 2}), inputs),
        stage_digest("compress", settings(seed=1), inputs),
        stage_digest("compress", settings(), {"annotations": Ref("annotations", "/a", "digest-2", 1)}),
        stage_digest("mine", settings(), inputs),
    }
    assert len(others | {first}) == 5


def test_a_stricter_contract_has_a_data_stage_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage: stage_digest(stage, settings(), {}) for stage in ("compress", "sft")}
    contracts = tmp_path / "data_contracts"
    shutil.copytree(Path(cache.data_contracts.__file__).parent / "expectations", contracts / "expectations")
    suite = contracts / "expectations" / "dialogues.pairs.json"
    suite.write_text(suite.read_text() + "\n")
    monkeypatch.setattr(cache.data_contracts, "__file__", str(contracts / "__init__.py"))
    after = {stage: stage_digest(stage, settings(), {}) for stage in ("compress", "sft")}
    assert before["compress"] != after["compress"]
    assert before["sft"] == after["sft"]


def test_the_photographs_and_annotation_files_a_config_names_count(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "a.png").write_bytes(b"a")
    config = settings(ingest={"sources": [{"kind": "degrade", "name": "mine", "photographs": str(photographs)}]})
    before = {stage: stage_digest(stage, config, {}) for stage in ("ingest", "compress")}
    (photographs / "b.png").write_bytes(b"b")
    assert stage_digest("ingest", config, {}) != before["ingest"]
    assert stage_digest("compress", config, {}) == before["compress"]


def test_the_checkpoint_a_config_names_counts(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    config = settings(student={"model": str(tmp_path)})
    before = stage_digest("sft", config, {})
    (tmp_path / "model.safetensors").write_bytes(b"WEIGHTS")
    assert stage_digest("sft", config, {}) != before
    assert stage_digest("sft", settings(student={"model": "some/hub-id"}), {}) != stage_digest("sft", settings(), {})


def test_a_checkpoint_below_the_users_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model.safetensors").write_bytes(b"weights")
    config = settings(student={"model": "~/student"})
    before = stage_digest("sft", config, {})
    (tmp_path / "student" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert stage_digest("sft", config, {}) != before


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_an_edit_of_the_shipped_deepspeed_file_counts_from_any_folder(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "repository" / "pipeline_config"
    shutil.copytree(CONFIG_FOLDER / "deepspeed", shipped / "deepspeed")
    monkeypatch.setattr(zero, "CONFIG_FOLDER", shipped)
    named = {"deepspeed": "pipeline_config/deepspeed/zero2.json", "optimiser": {"lr": 1e-4}}
    config, found = settings(**{stage: named}), []
    (tmp_path / "elsewhere").mkdir()
    for text in (None, '{"zero_optimization": {"stage": 1}}'):
        if text is not None:
            (shipped / "deepspeed" / "zero2.json").write_text(text)
        digests = set()
        for folder in (tmp_path / "repository", tmp_path / "elsewhere"):
            monkeypatch.chdir(folder)
            digests.add(stage_digest(stage, config, {}))
        assert len(digests) == 1, "the same student from both"
        found += digests
    assert found[0] != found[1]


def test_large_files_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    assert content_digest(path) == digest_of(path)
    assert content_digest(tmp_path / "no such file") == "missing"
    monkeypatch.setattr(cache, "CONTENT_LIMIT", 2)
    before = content_digest(path)
    assert before != digest_of(path)
    os.utime(path, ns=(1, 1))
    assert content_digest(path) != before


def generation(home: Path) -> str:
    return CacheEntry(home, "digest").current_generation()


def test_a_generation_lasts_until_what_was_published_no_longer_holds(tmp_path: Path, published: Ref) -> None:
    first = generation(tmp_path)
    assert generation(tmp_path) == first  # a retry, before anything was published
    CacheEntry(tmp_path, "digest").add([published])
    assert generation(tmp_path) == first
    published.path.unlink()
    second = generation(tmp_path)
    assert second != first
    assert generation(tmp_path) == second


def test_all_that_runs_at_the_same_time_published_must_hold(tmp_path: Path, published: Ref) -> None:
    first = generation(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"rows")
    CacheEntry(tmp_path, "digest").add([published])
    CacheEntry(tmp_path, "digest").add([Ref("student", str(other), digest_of(other), 0)])
    assert generation(tmp_path) == first
    published.path.write_bytes(b"ROWS")
    assert generation(tmp_path) != first


def test_a_large_student_is_read_again_only_if_a_size_or_time_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CONTENT_LIMIT", 2)
    student = tmp_path / "student"
    student.mkdir()
    weights = student / "model.safetensors"
    weights.write_bytes(b"weights")
    generation(tmp_path)
    CacheEntry(tmp_path, "digest").add([Ref("student", str(student), digest_of(student), 0)])
    reads: list[Path] = []
    monkeypatch.setattr(Ref, "holds", lambda ref: bool(reads.append(ref.path)) or digest_of(ref.path) == ref.digest)
    first = generation(tmp_path)
    assert reads == []
    os.utime(weights)  # touched, not changed
    assert generation(tmp_path) == first
    assert reads == [student]
    weights.write_bytes(b"WEIGHTS")
    assert generation(tmp_path) != first


def test_pictures_a_table_points_to_are_part_of_what_must_hold(tmp_path: Path) -> None:
    stage = tmp_path / "runs" / "r" / "ingest"
    (stage / "media").mkdir(parents=True)
    own, users = stage / "media" / "a.png", tmp_path / "b.png"
    own.write_bytes(b"a")
    users.write_bytes(b"b")
    path = stage / "samples.parquet"
    pq.write_table(pa.table({"media_path": [str(own), str(users)]}), path)
    CacheEntry(tmp_path, "digest").add([Ref("samples", str(path), digest_of(path), 2)])
    first = generation(tmp_path)
    users.unlink()  # the user's own file: part of ingest's key, not of what ingest published
    assert generation(tmp_path) == first
    own.unlink()
    assert generation(tmp_path) != first


def test_the_key_given_to_prefect_holds_no_run(tmp_path: Path) -> None:
    inputs = {"annotations": Ref("annotations", "/a", "digest-1", 1), "champion": None, "config": settings()}
    keys = {cache_key("compress", Run(name, str(tmp_path), name), inputs) for name in ("one", "two")}
    assert len(keys) == 1
    assert keys.pop().startswith("compress-")
