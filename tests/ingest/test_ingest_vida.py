"""ViDA-UGC's layout, on three pictures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_contracts.check import ContractError, check
from pipeline_config.schema import ConfigError, IngestConfig, load_config
from tasks.ingest.ingest import Ingested, ingest
from tasks.ingest.sources import open_sources
from tasks.rewards.health import gold_findings

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vida"


def _config(folder: Path = FIXTURE, metadata: str = "metadata.json", **source: Any) -> IngestConfig:
    vida = {"kind": "vida", "name": "vida", "images": folder / "images", "metadata": folder / metadata}
    return IngestConfig.model_validate({"sources": [vida | source]})


def _ingest(tmp_path: Path, config: IngestConfig) -> Ingested:
    return ingest(config, seed=3, folder=tmp_path / "media")


def _findings(config: IngestConfig) -> list[str]:
    return [finding for source in open_sources(config, 0) for finding in source.findings()]


def test_three_pictures(tmp_path: Path) -> None:
    made = _ingest(tmp_path, _config())
    rows = {Path(row["media_path"]).name: row for row in made.table.to_pylist()}
    assert set(rows) == {"coffee.png", "chelsea_cat.png", "motorcycle.png"}
    assert made.quarantine == []
    assert list((tmp_path / "media").iterdir()) == []
    coffee = rows["coffee.png"]
    assert coffee["media_path"] == str(FIXTURE / "images" / "coffee.png")
    assert (coffee["source_file"], coffee["source_row"]) == (str(FIXTURE / "metadata.json"), 1)
    assert coffee["distortions"][0] == {
        "id": 0,
        "distortion": "Noise",
        "severity": "Minor",  # "Slight" in the file
        "box": [0, 0, 1000, 1000],
        "position": "whole picture",
        "significance": 3.278,
    }
    assert rows["motorcycle.png"]["distortions"] == []
    assert all(q["source_row"] == row["source_row"] for row in rows.values() for q in row["questions"])
    assert Counter(row["split"] for row in rows.values()) == {"train": 2, "test": 1}


def test_the_table_keeps_the_contract_and_every_gold_scores_full_marks(tmp_path: Path) -> None:
    conversations = tuple(sorted(FIXTURE.glob("*.jsonl")))
    made = _ingest(tmp_path, _config(conversations=conversations))
    assert check("samples", made.table).ok
    assert gold_findings(made.table.to_pylist(), load_config("demo").rewards) == []


def test_conversations_take_the_place_of_the_expansion(tmp_path: Path) -> None:
    made = _ingest(tmp_path, _config(conversations=tuple(sorted(FIXTURE.glob("*.jsonl")))))
    rows = {Path(row["media_path"]).name: row for row in made.table.to_pylist()}
    given = {(q["sub_task"], q["kind"], q["problem_type"], q["answer"]) for q in rows["chelsea_cat.png"]["questions"]}
    assert given == {
        ("mcq", "position", "choice", "B"),
        ("mcq", "severity", "choice", "B"),
        ("dist_detect", "dist_detect", "detection", next(iter(given & _detections(given)))[3]),
    }
    choice = next(q for q in rows["chelsea_cat.png"]["questions"] if q["kind"] == "position")
    assert choice["options"] == ["top", "bottom right", "whole picture"]
    assert "<image>" not in choice["question"]
    assert len(rows["coffee.png"]["questions"]) > 10


def _detections(given: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {g for g in given if g[3].startswith("<|object_ref_start|>Severe motion blur<|object_ref_end|>")}


def test_answers_in_a_free_form_stay_trainable(tmp_path: Path) -> None:
    path = tmp_path / "brief_assess.jsonl"
    turns = [{"from": "human", "value": "<image>Describe."}, {"from": "gpt", "value": "Blurred by shake, else fine."}]
    path.write_text(
        json.dumps({"image": "coffee.png", "conversations": turns}) + "\n{\n" + json.dumps({"image": "x.png"})
    )
    made = _ingest(tmp_path, _config(conversations=(path,)))
    rows = {Path(row["media_path"]).name: row for row in made.table.to_pylist()}
    assert [(q["sub_task"], q["problem_type"]) for q in rows["coffee.png"]["questions"]] == [
        ("brief_assess", "free_form")
    ]
    assert [(Path(q["file"]).name, q["row"], q["field"]) for q in made.quarantine] == [
        ("brief_assess.jsonl", 2, "conversations"),
        ("brief_assess.jsonl", 3, "conversations"),
    ]


BAD_ROWS: list[tuple[str, Any, str]] = [
    ("mos", {"mos": 7.5}, "lies outside 1 .. 5"),
    ("mos", {"mos": "high"}, "is no number"),
    ("level", {"level": "superb"}, "is none of bad, poor, fair, good, excellent"),
    ("image", {"image": None}, "names no file"),
    ("image", {"image": "absent.png"}, "no such file"),
    ("image", {"image": "broken.png"}, "holds no picture"),
    ("distortions", {"distortions": "none"}, "not a list"),
    ("distortions[0].distortion", {"distortion": "Haze"}, "is none of ViDA-UGC's ten"),
    ("distortions[0].severity", {"severity": "Huge"}, "is not Minor, Moderate or Severe"),
    ("distortions[0].coordinates", {"coordinates": [0, 0, 1200, 10]}, "leaves 0 .. 1000"),
    ("distortions[0].coordinates", {"coordinates": [500, 0, 100, 10]}, "is empty"),
    ("distortions[0].coordinates", {"coordinates": [0, 0, 10]}, "is no box"),
    ("distortions[0].significance_score", {"significance_score": None}, "is no number"),
]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_malformed_rows_are_quarantined_with_file_row_and_field(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "vida"
    shutil.copytree(FIXTURE, folder)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    good, template, _ = json.loads((FIXTURE / "metadata.json").read_text())
    records = [good]
    for field, change, _ in BAD_ROWS:
        record = json.loads(json.dumps(template))
        record["distortions"][0].update(change) if field.startswith("distortions[") else record.update(change)
        records.append(record)
    lines = [json.dumps(record) for record in records]
    text = "[" + ",".join(lines) + "]" if suffix == "json" else "\n".join([*lines, "{not json", "[1]"])
    (folder / f"bad.{suffix}").write_text(text)
    made = _ingest(tmp_path, _config(folder, f"bad.{suffix}"))
    assert made.table.num_rows == 1
    found = {q["row"]: q for q in made.quarantine}
    for row, (field, _, reason) in enumerate(BAD_ROWS, start=2):
        assert found[row]["field"] == field
        assert reason in found[row]["reason"]
        assert found[row]["file"] == str(folder / f"bad.{suffix}")
    extra = {found[row]["field"] for row in range(len(BAD_ROWS) + 2, len(found) + 2)}
    assert extra == ({"record"} if suffix == "jsonl" else set())


def test_names_and_severities_are_read_as_vida_spells_them(tmp_path: Path) -> None:
    folder = tmp_path / "vida"
    shutil.copytree(FIXTURE, folder)
    _, record, _ = json.loads((FIXTURE / "metadata.json").read_text())
    record["distortions"][0] |= {"distortion": "blocking artifact", "severity": "slight", "position": "upper half"}
    del record["level"]
    (folder / "metadata.json").write_text(json.dumps([record]))
    (row,) = _ingest(tmp_path, _config(folder)).table.to_pylist()
    (distortion,) = row["distortions"]
    assert (distortion["distortion"], distortion["severity"], distortion["position"]) == (
        "Blocking artifacts",
        "Minor",
        "center",
    )
    assert row["level"] == "poor"


def test_what_is_missing_is_named_before_anything_is_read(tmp_path: Path) -> None:
    config = _config(tmp_path, conversations=(tmp_path / "mcq.jsonl",))
    named = _findings(config)
    assert [finding.split(";")[0] for finding in named] == [
        f"{tmp_path / 'images'}: no such folder",
        f"{tmp_path / 'metadata.json'}: no such file",
        f"{tmp_path / 'mcq.jsonl'}: no such file",
    ]
    with pytest.raises(ConfigError, match=r"metadata\.json: no such file"):
        _ingest(tmp_path, config)
    (tmp_path / "images").mkdir()
    (tmp_path / "metadata.json").write_text("[]")
    assert _findings(_config(tmp_path)) == [
        f"{tmp_path / 'images'}: is empty; put the images into it or correct ingest.sources.images"
    ]
    for text, message in (("[]", "holds no record"), ("[{]", r"no valid JSON at line 1"), ("\xff", "UTF-8")):
        (tmp_path / "metadata.json").write_bytes(text.encode("latin-1"))
        config = _config(FIXTURE).model_copy()
        source = config.sources[0].model_copy(update={"metadata": tmp_path / "metadata.json"})
        with pytest.raises(ConfigError, match=message):
            _ingest(tmp_path, config.model_copy(update={"sources": (source,)}))


def test_only_bad_rows_break_the_contract(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('[{"image": "absent.png", "mos": 3}]')
    source = {"kind": "vida", "name": "v", "images": FIXTURE / "images", "metadata": tmp_path / "metadata.json"}
    with pytest.raises(ContractError, match=r"all 1 files or rows were left out; the first: .*metadata\.json:1: image"):
        _ingest(tmp_path, IngestConfig.model_validate({"sources": [source]}))
