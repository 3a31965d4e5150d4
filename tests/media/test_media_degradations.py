"""Every distortion changes the picture, only where it should, the same way each time, and more with severity."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_contracts.records import DISTORTIONS, SEVERITIES
from tasks.media.degradations import STRENGTHS, apply, degrade
from tasks.media.measurements import measure
from tasks.media.reference_score import pseudo_mos
from tasks.media.shipped import shipped_photographs


def _crop(file: str, side: int = 168) -> np.ndarray:
    (photograph,) = [p for p in shipped_photographs() if p.file == file]
    pixels = cv2.cvtColor(cv2.imread(str(photograph.path)), cv2.COLOR_BGR2RGB)
    scale = 1.5 * side / min(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[side // 4 : side // 4 + side, side // 4 : side // 4 + side])


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    files = ("astronaut.jpg", "village_shop.jpg", "coffee.jpg", "forest_stream.jpg", "kiwi.jpg", "chrysanthemums.jpg")
    return [_crop(file, side) for file in files for side in (112, 168)]


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_raising_severity_never_raises_the_mos(distortion: str, crops: list[np.ndarray]) -> None:
    for seed, crop in enumerate(crops):
        boxes = (None, (28, 28, 84, 112))
        for box in boxes:
            scores = [
                pseudo_mos(crop, degrade(crop, distortion, severity, box, np.random.default_rng(seed)))
                for severity in SEVERITIES
            ]
            assert 5.0 > scores[0] >= scores[1] >= scores[2] >= 1.0


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_a_box_changes_alone_and_the_same_seed_repeats(distortion: str, crops: list[np.ndarray]) -> None:
    crop = crops[3]
    before = crop.copy()
    box = (28, 56, 140, 112)
    degraded = degrade(crop, distortion, "Severe", box, np.random.default_rng(3))
    again = degrade(crop, distortion, "Severe", box, np.random.default_rng(3))
    assert np.array_equal(crop, before)
    assert np.array_equal(degraded, again)
    assert degraded.dtype == np.uint8
    inside = np.zeros(crop.shape[:2], bool)
    inside[56:112, 28:140] = True
    changed = (degraded != crop).any(axis=2)
    assert not changed[~inside].any()
    rows, columns = np.nonzero(changed)
    assert (rows.min(), columns.min()) <= (58, 30)
    assert (rows.max(), columns.max()) >= (109, 137)


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_every_strength_keeps_shape_and_the_weakest_is_nearest(distortion: str, crops: list[np.ndarray]) -> None:
    crop = crops[1][:, :140]
    weak, strong = (apply(crop, distortion, strength, np.random.default_rng(0)).astype(int) for strength in (0.02, 1.0))
    assert weak.shape == strong.shape == crop.shape
    assert np.abs(weak - crop).mean() < np.abs(strong - crop).mean()


# What each distortion must do to the measurement that stands for it, on a median of pictures.
_SIGNS = {
    "Low clarity": ("contrast", "<"),
    "Noise": ("noise", ">"),
    "Underexposure": ("exposure", "<"),
    "Blocking artifacts": ("blockiness", ">"),
    "Edge aliasing effect": ("aliasing", ">"),
    "Out of focus blur": ("blur", ">"),
    "Meaningless solid color": ("flatness", ">"),
    "Overexposure": ("over_share", ">"),
    "Motion blur": ("motion_anisotropy", ">"),
    "Edge ringing effect": ("ringing", ">"),
}


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_measurements_follow_the_distortion(distortion: str, crops: list[np.ndarray]) -> None:
    field, sign = _SIGNS[distortion]

    def median(pictures: list[np.ndarray]) -> float:
        return float(np.median([getattr(measure(picture), field) for picture in pictures]))

    clean = median(crops)
    levels = [
        median([apply(c, distortion, STRENGTHS[s], np.random.default_rng(i)) for i, c in enumerate(crops)])
        for s in ("Minor", "Severe")
    ]
    moved = [(level - clean) * (1 if sign == ">" else -1) for level in levels]
    assert 0 < moved[0] < moved[1], (clean, levels)


def test_wrong_arguments_are_refused() -> None:
    pixels = np.zeros((56, 56, 3), np.uint8)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown distortion 'Haze'"):
        apply(pixels, "Haze", 0.5, rng)
    with pytest.raises(ValueError, match="strength 0 "):
        apply(pixels, "Noise", 0, rng)
    with pytest.raises(ValueError, match="unknown severity 'Slight'"):
        degrade(pixels, "Noise", "Slight", None, rng)
    with pytest.raises(ValueError, match="leaves the picture"):
        degrade(pixels, "Noise", "Minor", (0, 0, 57, 20), rng)
