"""Degraded photographs: exact sizes, true labels, balance, split by photograph, and what fails how."""

from __future__ import annotations

import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_contracts.check import ContractError
from data_contracts.records import DISTORTIONS, SAMPLES, level_of
from data_contracts.refs import file_digest
from pipeline_config.schema import ConfigError, IngestConfig
from tasks.ingest.ingest import Ingested, ingest
from tasks.ingest.sources import open_sources
from tasks.launcher.job import DiskFull
from tasks.media.positions import position_of
from tasks.media.probe import Limits, perceptual_hash
from tasks.media.shipped import FOLDER, shipped_photographs


def _config(ingest: dict[str, Any] | None = None, **source: Any) -> IngestConfig:
    return IngestConfig.model_validate(
        {"sources": [{"kind": "degrade", "name": "photographs", "side": 112, **source}], **(ingest or {})}
    )


@pytest.fixture
def few(tmp_path: Path) -> str:
    """A folder of three photographs."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for file in ("kiwi.jpg", "coffee.jpg", "canal.jpg"):
        shutil.copy(FOLDER / file, folder)
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    config = _config(crops_per_photograph=4, test_crops_per_photograph=2)
    return ingest(config, seed=7, folder=tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def rows(made: Ingested) -> list[dict[str, Any]]:
    return made.table.to_pylist()


def test_pictures_are_exactly_of_the_configured_side_and_named_by_content(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        path = Path(row["media_path"])
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.size == (row["width"], row["height"]) == (112, 112)
        assert row["width"] % 28 == 0
        assert path.stem == row["sample_id"] == file_digest(path)
        assert path.is_absolute()


def test_no_photograph_stands_on_both_sides(made: Ingested, rows: list[dict[str, Any]]) -> None:
    declared = {f"photographs/{p.file}": p.split for p in shipped_photographs()}
    assert {row["source_photograph"]: row["split"] for row in rows} == declared
    assert Counter(row["split"] for row in rows) == {"train": 26 * 4, "test": 24 * 2}
    assert made.table.schema == SAMPLES
    assert made.facts["num_samples"] == len(rows) == len({row["sample_id"] for row in rows})
    assert made.facts["num_test_photographs"] == 24
    assert made.facts["num_questions"] == sum(len(row["questions"]) for row in rows)
    assert all(Path(row["source_file"]).is_file() and row["source_row"] is None for row in rows)


def test_labels_are_consistent(rows: list[dict[str, Any]]) -> None:
    grid = {round(1000 * edge / 112) for edge in range(0, 113, 28)}
    for row in rows:
        distortions = row["distortions"]
        assert row["level"] == level_of(row["mos"])
        assert len({d["distortion"] for d in distortions}) == len(distortions) <= 3
        assert [d["id"] for d in distortions] == list(range(len(distortions)))
        losses = [d["significance"] for d in distortions]
        assert losses == sorted(losses, reverse=True)
        assert all(loss >= 0.05 for loss in losses)
        assert (row["mos"] == 5.0) == (not distortions)
        whole = [d for d in distortions if d["position"] == "whole picture"]
        assert len(whole) <= 1
        for d in distortions:
            assert set(d["box"]) <= grid
            assert d["position"] == position_of(d["box"])
            assert d["distortion"] != "Meaningless solid color" or d["position"] != "whole picture"
        boxes = [d["box"] for d in distortions if d not in whole]
        assert all(0.1 <= (b[2] - b[0]) * (b[3] - b[1]) / 1e6 <= 0.6 for b in boxes)


def test_a_single_boxed_distortion_costs_what_its_label_says(rows: list[dict[str, Any]]) -> None:
    single = [row for row in rows if len(row["distortions"]) == 1]
    assert len(single) > 20
    assert all(row["mos"] == pytest.approx(5 - row["distortions"][0]["significance"], abs=0.006) for row in single)


def test_solid_color_fills_its_box_and_nothing_else(rows: list[dict[str, Any]]) -> None:
    """The label's box is where the flat color is: its bounding box, to the pixel."""
    checked = 0
    for row in rows:
        if [d["distortion"] for d in row["distortions"]] != ["Meaningless solid color"]:
            continue
        pixels = cv2.cvtColor(cv2.imread(row["media_path"]), cv2.COLOR_BGR2RGB)
        colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        ys, xs = np.nonzero((pixels == colors[counts.argmax()]).all(axis=2))
        found = [round(1000 * v / 112) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
        assert found == row["distortions"][0]["box"]
        checked += 1
    assert checked >= 3


def test_distortions_severities_and_places_are_balanced(rows: list[dict[str, Any]]) -> None:
    train = [d for row in rows for d in row["distortions"] if row["split"] == "train"]
    names = Counter(d["distortion"] for d in train)
    assert set(names) == set(DISTORTIONS)
    assert max(names.values()) - min(names.values()) <= 6
    severities = Counter(d["severity"] for d in train)
    assert max(severities.values()) - min(severities.values()) <= 8
    places = Counter(d["position"] for d in train if d["position"] != "whole picture")
    assert len(places) == 9
    assert max(places.values()) < 0.3 * sum(places.values())
    levels = Counter(row["level"] for row in rows)
    assert len(levels) == 5
    assert min(levels.values()) >= 0.08 * len(rows)


def test_shares_of_boxes_and_of_pristine_crops_are_the_configurations(few: str, tmp_path: Path) -> None:
    def distortions(name: str, **source: Any) -> list[list[dict[str, Any]]]:
        config = _config(photographs=few, crops_per_photograph=8, max_distortions=1, **source)
        rows = ingest(config, 0, tmp_path / name).table.to_pylist()
        return [row["distortions"] for row in rows]

    assert not any(distortions("pristine", pristine_share=1.0))
    distorted = {"pristine_share": 0.0, "distortions": ["Noise", "Low clarity"]}
    places = {
        share: [d["position"] == "whole picture" for (d,) in distortions(f"boxes{share}", box_share=share, **distorted)]
        for share in (0.0, 1.0)
    }
    assert len(places[0.0]) == len(places[1.0]) == 24
    assert all(places[0.0])
    assert not any(places[1.0])


def test_a_distortion_that_nobody_sees_is_no_label(tmp_path: Path) -> None:
    """There is nothing in a flat picture that could be blurred."""
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (300, 300), (90, 120, 60)).save(tmp_path / "flat" / "flat.png")
    config = _config(
        photographs=str(tmp_path / "flat"), crops_per_photograph=1, pristine_share=0.0, distortions=["Motion blur"]
    )
    (row,) = ingest(config, 0, tmp_path / "media").table.to_pylist()
    assert row["distortions"] == []
    assert row["mos"] == 5.0


def test_two_sources_of_one_configuration_draw_apart(few: str, tmp_path: Path) -> None:
    sources = [{"kind": "degrade", "name": name, "photographs": few, "side": 112} for name in ("a", "b")]
    first, second = open_sources(IngestConfig.model_validate({"sources": sources}), 0)
    made = [
        {sample.probed.digest for sample in source.expand(next(source.read(Limits())), "train", tmp_path)}
        for source in (first, second)
    ]
    assert len(made[0]) == 8
    assert not made[0] & made[1]


def test_near_duplicates_are_those_of_the_configuration(few: str, tmp_path: Path) -> None:
    with Image.open(FOLDER / "kiwi.jpg") as picture:
        picture.crop((6, 6, picture.width, picture.height)).save(Path(few) / "trimmed.png")
    with Image.open(Path(few) / "trimmed.png") as trimmed, Image.open(FOLDER / "kiwi.jpg") as whole:
        first, other = (int(perceptual_hash(picture), 16) for picture in (trimmed, whole))
    apart = (first ^ other).bit_count()
    assert 0 < apart < 20
    for bits, num_joined in ((apart - 1, 0), (apart, 2)):
        config = _config({"near_duplicate_bits": bits}, photographs=few, crops_per_photograph=1)
        assert ingest(config, 0, tmp_path / "media").facts["num_near_duplicates_joined"] == num_joined


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"max_megapixels": 0.05}, "megapixels exceed 0.05"), ({"max_file_megabytes": 0.001}, "MB exceed 0.001")],
)
def test_the_limits_of_a_file_are_the_configurations(
    few: str, tmp_path: Path, limit: dict[str, float], reason: str
) -> None:
    with pytest.raises(ContractError, match=reason):
        ingest(_config(limit, photographs=few), 0, tmp_path / "media")


def test_the_same_seed_makes_the_same_samples_and_another_does_not(few: str, tmp_path: Path) -> None:
    config = _config(photographs=few, crops_per_photograph=2)
    first, again, other = (
        ingest(config, seed, tmp_path / str(number)).table.drop_columns(["media_path"])
        for number, seed in enumerate((1, 1, 2))
    )
    assert first.equals(again)
    assert not set(first["sample_id"].to_pylist()) & set(other["sample_id"].to_pylist())
    assert Counter(first["split"].to_pylist()) == {"train": 4, "test": 2}


def test_unusable_files_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    shutil.copy(FOLDER / "kiwi.jpg", photographs / "a.jpg")
    shutil.copy(FOLDER / "kiwi.jpg", photographs / "b.jpg")
    (photographs / "cut.jpg").write_bytes((FOLDER / "kiwi.jpg").read_bytes()[:3000])
    (photographs / "wrong.png").write_bytes((FOLDER / "coffee.jpg").read_bytes())
    (photographs / "notes.txt").write_text("not a picture")
    Image.new("RGB", (100, 300)).save(photographs / "small.png")
    made = ingest(_config(photographs=str(photographs), crops_per_photograph=1), 0, tmp_path / "media")
    assert made.table.num_rows == 1
    assert made.facts["num_equal_bytes_dropped"] == 1
    reasons = {Path(q["file"]).name: q["reason"] for q in made.quarantine}
    assert set(reasons) == {"cut.jpg", "wrong.png", "notes.txt", "small.png"}
    assert "does not decode" in reasons["cut.jpg"]
    assert "holds JPEG data" in reasons["wrong.png"]
    assert "below a crop's 112 pixels" in reasons["small.png"]
    assert all({"id", "file", "row", "field", "reason"} == set(q) for q in made.quarantine)


def test_missing_empty_and_wholly_bad_folders_end_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent: no such folder; correct ingest\.sources\.photographs"):
        ingest(_config(photographs=str(tmp_path / "absent")), 0, tmp_path / "media")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: holds no file"):
        ingest(_config(photographs=str(tmp_path / "empty")), 0, tmp_path / "media")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(ContractError, match=r"all 1 files or rows were left out; the first: .*x\.jpg"):
        ingest(_config(photographs=str(tmp_path / "bad")), 0, tmp_path / "media")


def test_a_full_disk_ends_in_a_clear_error_and_leaves_no_half_written_picture(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the write fails in the kernel, as it would there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match=r"media: no room for a picture of \d+ bytes; free space"):
            ingest(_config(crops_per_photograph=1), 0, tmp_path / "media")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "media").iterdir()) == []


def test_a_side_too_small_for_boxes_still_works(tmp_path: Path) -> None:
    made = ingest(_config(side=56, crops_per_photograph=1, max_distortions=2), 0, tmp_path / "media")
    boxes = [d["box"] for row in made.table.to_pylist() for d in row["distortions"]]
    assert boxes
    assert all(box == [0, 0, 1000, 1000] for box in boxes)
