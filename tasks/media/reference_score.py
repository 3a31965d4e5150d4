"""Pseudo-MOS of a degraded picture against its pristine original, as KADIS-700k scores what no one rated.

The metric is SSIM (Wang et al. 2004, scikit-image's, 7 x 7 window, mean over R, G and B); KADIS uses several others.
The mapping to [1, 5] is fixed, monotone and ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

METRIC = "SSIM"
# SSIM -> MOS, linear in between: chosen so that the five levels are about equally filled by one to three distortions of
# mixed severity, half of them in a box.
_KNOTS = ((0.0, 1.0), (0.56, 1.8), (0.74, 2.6), (0.84, 3.4), (0.925, 4.2), (1.0, 5.0))


def pseudo_mos(pristine: NDArray[np.uint8], degraded: NDArray[np.uint8]) -> float:
    """MOS in [1, 5]; 5 for equal pictures.

    Both uint8, height x width x 3, RGB, at least 7 pixels a side. Raises ValueError where the shapes differ.
    """
    if pristine.shape != degraded.shape:
        raise ValueError(f"pristine {pristine.shape} and degraded {degraded.shape} differ in shape")
    similarity = structural_similarity(
        pristine.astype(np.float32), degraded.astype(np.float32), data_range=255.0, channel_axis=2
    )
    ssim, mos = zip(*_KNOTS, strict=True)
    return float(np.interp(similarity, ssim, mos))
