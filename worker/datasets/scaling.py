"""How inputs and targets are brought to the range that a network learns from: fitted on training rows, then applied."""

import math

import numpy as np
from numpy.typing import NDArray

from models.dataset_spec import Scaling
from models.result import Scale

_UNSCALED = Scale(shift=0.0, scale=1.0)
_CHUNK_PIXELS = 2**20  # of the temporaries while pixels are summed


def fit_column(values: NDArray[np.float64], scaling: Scaling) -> Scale:
    """Return the scale of a column from its training rows, (N,).

    "min_max" takes them to 0..1; "standard" to mean 0 and population standard deviation 1, as scikit-learn's scalers
    do. A constant column is only shifted, to 0. Not finite where the values span more than float64 can hold.
    """
    if scaling == "none":
        return _UNSCALED
    low, high = float(values.min()), float(values.max())
    if low == high:
        return Scale(shift=low, scale=1.0)
    if scaling == "min_max":
        return Scale(shift=low, scale=high - low)
    with np.errstate(over="ignore", invalid="ignore"):
        # The deviation of distinct but tiny values can be too small for float64: 0.
        return Scale(shift=float(values.mean()), scale=float(values.std()) or 1.0)


def apply_scale(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float32]:
    """Return (values - shift) / scale, computed in float64; infinite or NaN where float32 cannot hold it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return ((values - scale.shift) / scale.scale).astype(np.float32)


def fit_channels(
    images: NDArray[np.uint8], rows: NDArray[np.int64] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population standard deviation per channel of the pixels of (N, C, H, W), scaled to 0..1.

    Of all images, or of the `rows`, which are never in memory all at once. Both come from exact sums. A constant
    channel has the deviation 1: it is only shifted.
    """
    channels = images.shape[1]
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    step = max(1, _CHUNK_PIXELS // math.prod(images.shape[1:]))
    samples = len(images) if rows is None else len(rows)
    for start in range(0, samples, step):
        chosen = slice(start, start + step)
        chunk = images[chosen if rows is None else rows[chosen]].astype(np.uint16)  # 255 squared still fits
        sums += chunk.sum(axis=(0, 2, 3), dtype=np.int64)
        chunk *= chunk
        squares += chunk.sum(axis=(0, 2, 3), dtype=np.int64)
    count = samples * math.prod(images.shape[2:])
    # Integers of any size: the variance of nearly constant pixels does not drown in rounding.
    variances = [count * square - total**2 for square, total in zip(squares.tolist(), sums.tolist(), strict=True)]
    mean = tuple(total / (255 * count) for total in sums.tolist())
    return mean, tuple(math.sqrt(variance) / (255 * count) or 1.0 for variance in variances)
