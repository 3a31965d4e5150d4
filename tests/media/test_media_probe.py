"""A picture is opened only if it is what it says; each refusal names the file and the cure."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_contracts.refs import file_digest
from tasks.media.probe import Limits, MediaError, open_picture, probe


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_facts_of_a_picture(picture: Path) -> None:
    probed, pixels = open_picture(picture)
    assert (probed.width, probed.height, probed.format) == (96, 64, "PNG")
    assert pixels.shape == (64, 96, 3)
    assert probed.digest == file_digest(picture)
    assert len(probed.perceptual_hash) == 16


def test_grey_palette_and_transparency_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (40, 30)).save(path)
        assert open_picture(path)[1].shape == (30, 40, 3)


def test_perceptual_hash_sees_through_compression(picture: Path, tmp_path: Path) -> None:
    smooth = Image.open(picture).resize((12, 8)).resize((320, 240), Image.Resampling.BICUBIC)
    hashes = []
    for quality in (95, 30):
        smooth.save(tmp_path / f"{quality}.jpg", quality=quality)
        hashes.append(int(probe(tmp_path / f"{quality}.jpg").perceptual_hash, 16))
    smooth.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "other.jpg")
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ int(probe(tmp_path / "other.jpg").perceptual_hash, 16)).bit_count() > 4


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG of 50,000 x 50,000 pixels whose image data are absent: decoding would fail in another way, or eat 7 GB."""
    header = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big"))
    with pytest.raises(MediaError, match=r"bomb\.png: .*scale it down, or raise ingest\.max_megapixels"):
        probe(path)


def test_the_configured_limits_hold(picture: Path) -> None:
    with pytest.raises(MediaError, match=r"96 x 64 = 0\.00614 megapixels exceed 0\.001"):
        probe(picture, Limits(max_megapixels=0.001))
    with pytest.raises(MediaError, match=r"raise ingest\.max_file_megabytes"):
        probe(picture, Limits(max_megabytes=0.001))


def test_what_is_not_what_it_says_is_refused(picture: Path, tmp_path: Path) -> None:
    data = picture.read_bytes()
    cases = {
        "mislabelled.jpg": (data, "holds PNG data, not what its suffix says"),
        "truncated.png": (data[: len(data) // 2], "does not decode"),
        "text.png": (b"not a picture at all", "holds no picture of a known format"),
        "empty.png": (b"", "is empty"),
        "clip.mp4": (data, "unknown suffix '.mp4'"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=message) as caught:
            probe(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="no such file"):
        probe(tmp_path / "absent.png")
    Image.new("RGB", (27, 100)).save(tmp_path / "thin.png")
    with pytest.raises(MediaError, match="below 28 pixels"):
        probe(tmp_path / "thin.png")
    Image.new("I;16", (64, 64)).save(tmp_path / "deep.png")
    with pytest.raises(MediaError, match="convert it to 8 bits"):
        probe(tmp_path / "deep.png")
