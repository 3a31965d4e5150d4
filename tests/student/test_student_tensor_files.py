"""Tensors on disk up to a limit: which stay, whatever the order and whoever writes them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data_contracts.refs import text_digest
from tasks.student.tensor_files import TensorFiles

SIZE = 1000  # bytes, more than a tensor and its header take
KEYS = [text_digest(str(i)) for i in range(200)]


def epoch(files: TensorFiles, group: str, seed: int, keys: list[str] = KEYS) -> int:
    """Use tensors in random order; what is not found is put. Returns how many were found."""
    found = 0
    for i in np.random.default_rng(seed).permutation(len(keys)):
        tensor = files.get(group, keys[i])
        if tensor is None:
            files.put(group, keys[i], torch.full((224,), float(i)))
        else:
            assert torch.equal(tensor, torch.full((224,), float(i)))
            found += 1
    return found


def held(folder: Path, group: str) -> set[str]:
    return {path.stem for path in (folder / group).glob("*.safetensors")}


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


@pytest.mark.parametrize("share", [0.08, 0.5, 1.0])
def test_a_share_that_fits_is_found_in_every_shuffled_epoch(share: float, tmp_path: Path) -> None:
    limit = round(share * SIZE * len(KEYS))
    for number in range(3):
        found = epoch(TensorFiles(tmp_path, limit), "how", number)
        assert found == pytest.approx(0 if number == 0 else share * len(KEYS), abs=0.04 * len(KEYS))
        assert num_bytes(tmp_path) <= limit * 1.02 + SIZE


def test_what_does_not_fit_is_not_written_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TensorFiles(tmp_path, 20 * SIZE)
    epoch(files, "how", 0)
    written: list[Path] = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(path) or write(path, data))
    epoch(files, "how", 1)
    assert len(written) <= 2


def test_two_processes_in_their_own_orders_keep_the_same_share(tmp_path: Path) -> None:
    first, second = (TensorFiles(tmp_path / "both", 50 * SIZE) for _ in range(2))
    half = len(KEYS) // 2
    for number in range(2):
        epoch(first, "how", number, KEYS[:half])
        epoch(second, "how", number, KEYS[half:])
    alone = TensorFiles(tmp_path / "alone", 50 * SIZE)
    epoch(alone, "how", 7)
    both, expected = held(tmp_path / "both", "how"), held(tmp_path / "alone", "how")
    assert len(both & expected) >= 0.9 * len(expected)


def test_groups_that_are_out_of_use_go_first(tmp_path: Path) -> None:
    """Such as the features of a tower that was trained since."""
    files = TensorFiles(tmp_path, 60 * SIZE)
    for group, age in (("oldest", 200), ("old", 100)):
        epoch(files, group, 0, KEYS[:30])
        _age(tmp_path / group, age)
    epoch(TensorFiles(tmp_path, 60 * SIZE), "how", 0, KEYS[:40])
    assert held(tmp_path, "how") == set(KEYS[:40])
    assert held(tmp_path, "oldest") == set()
    assert held(tmp_path, "old") == set(sorted(KEYS[:30])[: len(held(tmp_path, "old"))]), "the highest keys went"
    assert 15 <= len(held(tmp_path, "old")) <= 25
    assert epoch(TensorFiles(tmp_path, 60 * SIZE), "old", 1, KEYS[:30]) >= 15
    epoch(TensorFiles(tmp_path, 60 * SIZE), "how", 1, KEYS[:40])
    assert held(tmp_path, "old"), "a group that was used a moment ago is not given up for another"


def test_what_was_not_used_for_a_week_goes_first(tmp_path: Path) -> None:
    """Such as another dataset's pictures, seen by the same tower."""
    epoch(TensorFiles(tmp_path, 60 * SIZE), "how", 0, KEYS[:50])
    _age(tmp_path / "how", 8 * 86400)
    for number in range(2):
        found = epoch(TensorFiles(tmp_path, 60 * SIZE), "how", number, KEYS[50:105])
    assert found == 55
    assert len(held(tmp_path, "how") & set(KEYS[:50])) >= 1, "no more than has to"


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "how").mkdir()
    for name, seconds in ((".old.1.1.part", 7200), (".new.1.1.part", 0)):
        (tmp_path / "how" / name).write_bytes(b"x")
        _age(tmp_path / "how", seconds)
    TensorFiles(tmp_path, SIZE).put("how", KEYS[0], torch.zeros(1))
    assert sorted(path.name for path in (tmp_path / "how").iterdir()) == [".new.1.1.part", f"{KEYS[0]}.safetensors"]


def _age(folder: Path, seconds: float) -> None:
    """As if so much time had passed since each file was used."""
    for path in folder.iterdir():
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - seconds))
