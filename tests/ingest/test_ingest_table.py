"""A folder of images and a table of scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline_config.schema import ConfigError, IngestConfig, load_config
from tasks.ingest.ingest import Ingested, ingest
from tasks.media.shipped import FOLDER
from tasks.rewards.health import gold_findings

FILES = ("kiwi.jpg", "coffee.jpg", "canal.jpg", "beach.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for file in FILES:
        shutil.copy(FOLDER / file, tmp_path / "images")
    return tmp_path


def _ingest(folder: Path, scores: str, **source: Any) -> Ingested:
    table = {"kind": "table", "name": "rated", "images": folder / "images", "scores": folder / scores}
    return ingest(IngestConfig.model_validate({"sources": [table | source]}), seed=0, folder=folder / "media")


def test_scores_are_mapped_and_asked_for_as_far_as_they_go(folder: Path) -> None:
    (folder / "scores.csv").write_text("image,mos\nkiwi.jpg,0\ncoffee.jpg,25\ncanal.jpg,100\n")
    made = _ingest(folder, "scores.csv", mos_range=(0, 100))
    rows = made.table.to_pylist()
    assert [(Path(r["media_path"]).name, r["mos"], r["level"], r["source_row"]) for r in rows] == [
        ("kiwi.jpg", 1.0, "bad", 1),
        ("coffee.jpg", 2.0, "poor", 2),
        ("canal.jpg", 5.0, "excellent", 3),
    ]
    assert all(row["distortions"] is None for row in rows)
    asked = {(q["sub_task"], q["problem_type"], q["answer"]) for q in rows[1]["questions"]}
    assert asked == {("score", "mos", "2.00"), ("qa", "free_form", "poor")}
    assert gold_findings(rows, load_config("demo").rewards) == []
    assert (rows[0]["width"], rows[0]["height"]) == (320, 320)


def test_differential_scores_semicolons_and_parquet(folder: Path) -> None:
    (folder / "dmos.csv").write_text("dist_img;dmos\nkiwi.jpg;0.0\ncoffee.jpg;9.0\n")
    options = {"file_column": "dist_img", "mos_column": "dmos", "mos_range": (9.0, 0.0)}
    assert _ingest(folder, "dmos.csv", **options).table["mos"].to_pylist() == [5.0, 1.0]
    pd.read_csv(folder / "dmos.csv", sep=";").to_parquet(folder / "dmos.parquet")
    assert _ingest(folder, "dmos.parquet", **options).table["mos"].to_pylist() == [5.0, 1.0]


def test_a_reference_is_the_unit_of_the_split(folder: Path) -> None:
    lines = [f"{file},3,{'r1.png' if i < 2 else 'r2.png'}" for i, file in enumerate(FILES)]
    (folder / "scores.csv").write_text("\n".join(["image,mos,ref", *lines]))
    made = _ingest(folder, "scores.csv", reference_column="ref")
    sides = {(r["source_photograph"], r["split"]) for r in made.table.to_pylist()}
    assert {photograph for photograph, _ in sides} == {"rated/r1.png", "rated/r2.png"}
    assert sorted(split for _, split in sides) == ["test", "train"]


def test_bad_rows_are_quarantined(folder: Path) -> None:
    shutil.copy(folder / "images" / "kiwi.jpg", folder / "images" / "copy.jpg")
    (folder / "scores.csv").write_text("image,mos\nkiwi.jpg,3\ncopy.jpg,3\ncanal.jpg,9\nbeach.jpg,\n,2\nabsent.jpg,2\n")
    made = _ingest(folder, "scores.csv")
    assert made.table.num_rows == 1
    assert made.facts["num_equal_bytes_dropped"] == 1
    assert [(q["row"], q["field"]) for q in made.quarantine] == [(3, "mos"), (4, "mos"), (5, "image"), (6, "image")]
    assert "lies outside mos_range 1 .. 5" in made.quarantine[0]["reason"]
    assert made.quarantine[3]["id"] == f"{folder / 'scores.csv'}:6"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("file,score\na,1\n", {}, r"scores\.csv: no column 'image', there are \['file', 'score'\]"),
        ("image,mos\n", {}, "holds no row"),
        ("image,mos\nkiwi.jpg,1\n", {"mos_range": (2, 2)}, "is no range"),
        ("image,mos\nkiwi.jpg,1\n", {"reference_column": "ref"}, "no column 'ref'"),
        ("", {}, "cannot be read as CSV or Parquet"),
    ],
)
def test_unusable_tables_end_in_one_message(folder: Path, text: str, options: dict[str, Any], message: str) -> None:
    (folder / "scores.csv").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        _ingest(folder, "scores.csv", **options)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"scores\.csv: no such file; correct ingest\.sources\.scores"):
        _ingest(folder, "scores.csv")
