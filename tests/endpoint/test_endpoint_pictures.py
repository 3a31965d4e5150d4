"""Pictures as they are sent: byte for byte, unless they exceed the budget."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline_config.schema import ConfigError
from tasks.endpoint.pictures import picture_parts, scaled_size


def sent(part: dict[str, dict[str, str]]) -> tuple[str, bytes]:
    head, data = part["image_url"]["url"].split(",", 1)
    return head, base64.b64decode(data)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_file_within_the_budget_is_sent_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise(100, 50).save(path, quality=30)
    for budget in (None, 5_000):
        assert sent(picture_parts([path], budget)[0]) == ("data:image/jpeg;base64", path.read_bytes())


def test_a_larger_file_is_scaled_and_sent_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    noise(400, 200).save(path)
    head, content = sent(picture_parts([path], 5_000)[0])
    with Image.open(io.BytesIO(content)) as image:
        assert (head, image.format, image.size) == ("data:image/png;base64", "PNG", (100, 50))


def test_frames_are_parts_in_their_order(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    colors = []
    for part in picture_parts(frames, 600):
        with Image.open(io.BytesIO(sent(part)[1])) as image:
            assert image.width * image.height <= 600
            colors.append(image.getpixel((0, 0)))
    assert colors == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_a_form_no_endpoint_reads_is_sent_as_png(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    noise(20, 20).save(path)
    assert sent(picture_parts([path], None)[0])[0] == "data:image/png;base64"


@pytest.mark.parametrize(("size", "budget"), [((1, 100_000), 100), ((3, 3), 1), ((4000, 3000), 1_048_576)])
def test_a_scaled_picture_is_within_its_budget_and_never_empty(size: tuple[int, int], budget: int) -> None:
    width, height = scaled_size(*size, budget)
    assert min(width, height) >= 1
    assert width * height <= max(budget, max(size) if min(size) == 1 else budget)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in ("gone.png", "broken.png"):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read for the model"):
            picture_parts([tmp_path / name], None)
