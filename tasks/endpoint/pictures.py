"""Pictures as parts of a user's turn, no larger than a pixel budget. Ours."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline_config.schema import ConfigError

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


def picture_parts(pictures: Sequence[Path | Image.Image], max_pixels: int | None) -> list[dict[str, Any]]:
    """One part per picture or frame. A file within the budget is sent byte for byte; what is larger is scaled down,
    its sides in proportion, and sent as PNG: a lossy format would add what the picture is judged for.

    Raises ConfigError naming a file that cannot be read.
    """
    return [{"type": "image_url", "image_url": {"url": _url(picture, max_pixels)}} for picture in pictures]


def scaled_size(width: int, height: int, max_pixels: int | None) -> tuple[int, int]:
    """Width and height in pixels after scaling into the budget; at least one pixel each."""
    if max_pixels is None or width * height <= max_pixels:
        return width, height
    share = math.sqrt(max_pixels / (width * height))
    return max(1, math.floor(width * share)), max(1, math.floor(height * share))


def _url(picture: Path | Image.Image, max_pixels: int | None) -> str:
    if isinstance(picture, Path):
        try:
            content = picture.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:  # reads the header only
                if scaled_size(*opened.size, max_pixels) == opened.size and picture.suffix.lower() in _MIME:
                    return _data(content, _MIME[picture.suffix.lower()])
                image = opened.convert("RGB")
        except (OSError, SyntaxError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{picture}: cannot be read for the model ({reason}); run ingest again") from error
    else:
        image = picture.convert("RGB")
    size = scaled_size(*image.size, max_pixels)
    written = io.BytesIO()
    (image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)).save(written, "PNG")
    return _data(written.getvalue(), "image/png")


def _data(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
