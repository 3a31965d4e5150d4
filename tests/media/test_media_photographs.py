"""The shipped photographs: complete, decodable, licensed, distinct, held out as the catalogue says."""

from __future__ import annotations

from collections import Counter

from tasks.media.probe import probe
from tasks.media.shipped import FOLDER, shipped_photographs

LICENCES = {"CC0-1.0", "public domain", "MIT", "BSD-3-Clause", "CC-BY-2.0", "CC-BY-4.0"}


def test_the_catalogue_is_the_folder() -> None:
    photographs = shipped_photographs()
    assert sorted(p.file for p in photographs) == sorted(
        f.relative_to(FOLDER).as_posix() for f in FOLDER.rglob("*.jpg")
    )
    assert Counter(p.split for p in photographs) == {"train": 26, "test": 24}
    assert sum(p.path.stat().st_size for p in photographs) <= 10e6


def test_every_photograph_is_attributed_and_share_alike_stands_apart() -> None:
    text = (FOLDER / "ATTRIBUTION.md").read_text()
    for p in shipped_photographs():
        assert p.author
        assert p.title
        assert f"| {p.file} | {p.title} | {p.author} | {p.licence} |" in text
        assert p.licence.startswith("CC-BY-SA-") if p.file.startswith("cc-by-sa/") else p.licence in LICENCES


def test_photographs_decode_and_none_looks_like_another() -> None:
    probed = [probe(p.path) for p in shipped_photographs()]
    assert min(min(p.width, p.height) for p in probed) >= 224
    hashes = [int(p.perceptual_hash, 16) for p in probed]
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 8
